"""A target for conditions that needs no program."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from pytest_plan.engine.shared.programs.readiness import Condition, NotReadyError, Target


class Fixed(Target):
    """A target whose answers the test chooses."""

    def __init__(
        self, ports: Mapping[str, int] | None = None, output: str = "", health: str = ""
    ) -> None:
        self.name = "'fixed'"
        self.host = "127.0.0.1"
        self.ports = ports or {}
        self.value: object = None
        self._output = output
        self._health = health

    def output(self) -> str:
        """Return the chosen output."""
        return self._output

    def health(self) -> str:
        """Return the chosen health."""
        return self._health or super().health()

    def run(self, argv: Sequence[str], timeout: float) -> tuple[int, str]:
        """Run the program on this machine."""
        done = subprocess.run(argv, timeout=timeout, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr


def answer(condition: Condition, target: Target, timeout: float = 5.0) -> str | None:
    """Return the answer of one try; None if the condition is met."""
    try:
        condition.check(target, timeout)
    except NotReadyError as error:
        return str(error)
    return None
