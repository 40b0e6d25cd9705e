"""The condition that a command succeeds."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence

from pytest_plan.engine.model.durations import Duration, format_duration, parse_duration
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.processes.process import arguments_of
from pytest_plan.engine.shared.programs.readiness import Condition, NotReadyError, Target

_SHOWN = 200  # the characters of the output that a message shows


def command(argv: Sequence[str | os.PathLike[str]], *, timeout: Duration = "10s") -> Condition:
    """Return the condition that a command exits with status 0.

    It runs with the environment of the server; for a container, inside the container. In the
    arguments, `{port}`, `{port:NAME}` and `{host}` are replaced as in those of `service`. The log
    does not show its output.

    Args:
        argv: the program and its arguments, never a shell string.
        timeout: the maximum duration of one try, after which the command is killed.

    Raises:
        PlanDefinitionError: an argument is invalid.
    """
    try:
        arguments = arguments_of(argv)
    except TypeError as error:
        raise PlanDefinitionError(f"command: {error}") from None
    return Command(arguments, parse_duration(timeout, "command: timeout", zero=False))


class Command(Condition):
    """The condition that `command` returns.

    Args:
        argv: the program and its arguments.
        timeout: the maximum duration of one try, in seconds.
    """

    def __init__(self, argv: Sequence[str], timeout: float) -> None:
        self.made = Command, (list(argv), timeout)
        self._argv = argv
        self._timeout = timeout

    def check(self, target: Target, timeout: float) -> None:
        """Run the command; see `Condition.check`."""
        seconds = min(self._timeout, timeout)
        what = f"command {shlex.join(self._argv)}"
        try:
            status, output = target.run(target.filled(self._argv), seconds)
        except subprocess.TimeoutExpired:
            raise NotReadyError(f"{what}: no end after {format_duration(seconds)}") from None
        if status:
            said = " ".join(output.split())[-_SHOWN:]
            raise NotReadyError(f"{what}: exit status {status}" + (f"; {said}" if said else ""))
