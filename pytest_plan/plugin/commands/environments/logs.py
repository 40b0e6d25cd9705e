"""Implements `--plan-logs`: prints the logs of steps of an environment, and runs no tests."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from pytest_plan.engine.journal.reader import Recorded
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.model.secret import Masker
from pytest_plan.engine.shared.program_log import next_lines
from pytest_plan.plugin.commands import output
from pytest_plan.plugin.commands.command import Command
from pytest_plan.plugin.commands.environments.recorded.chosen import by_environment, meant
from pytest_plan.plugin.commands.environments.recorded.condition import (
    StepCondition,
    Use,
    condition,
)
from pytest_plan.plugin.commands.environments.recorded.secrets import RecordedSecrets
from pytest_plan.plugin.run import launch

if TYPE_CHECKING:
    from pytest_plan.plugin.session.session import PlanSession

_EVERY = 0.2  # seconds between two looks at the logs


class PrintLogs(Command):
    """Prints the whole logs of the named steps; with `--plan-follow`, what is added to them, too.

    Only the logs are written to standard output.
    """

    def run(self, plan_session: PlanSession) -> pytest.ExitCode:
        """Print the logs.

        Raises:
            pytest.UsageError: a step or the environment is unknown, or its journal is damaged.
        """
        self._say = plan_session.host.foreground.say
        settings = self._settings
        given = (*settings.print_logs, *settings.follow)
        try:
            found, chosen = by_environment(self._config, settings, given, "--plan-logs", self._say)
        except JournalError as error:
            raise pytest.UsageError(str(error)) from None
        names = {
            name: [one for step in steps for one in meant(step, found[name])]
            for name, steps in chosen.items()
        }
        logs = [log for name in names for log in self._logs(name, found[name], names[name])]
        with contextlib.ExitStack() as stack:
            for log in logs:
                stack.callback(log.close)
            # These end `| head`, and stop following.
            with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
                self._print(logs, prefixed=sum(map(len, names.values())) > 1)
        return pytest.ExitCode.OK

    def _print(self, logs: list[_Log], *, prefixed: bool) -> None:
        for log in logs:
            self._print_more(log, prefixed=prefixed, wholly=not log.is_followed)
        followed = [log for log in logs if log.is_followed]
        while followed:
            for log in followed:
                self._print_more(log, prefixed=prefixed, wholly=log.has_ended)
            for log in (log for log in followed if log.has_ended):
                text = f"the log of {log.step} has ended: the step was cleaned up or rebuilt"
                self._say(text, always=True)
            followed = [log for log in followed if not log.has_ended]
            SystemClock.sleep(_EVERY)

    def _print_more(self, log: _Log, *, prefixed: bool, wholly: bool) -> None:
        for text in log.more(wholly=wholly):
            lines = text.splitlines() if prefixed else ()
            shown = "".join(f"{log.step} | {line}\n" for line in lines) or text
            output.write(self._config, shown)

    def _logs(self, name: str, recorded: Recorded, steps: list[str]) -> Iterator[_Log]:
        """Yield the logs of these steps of an environment; report each that has none."""
        found = condition(name, recorded, self._settings.dir)
        secrets = RecordedSecrets(recorded, launch.key_of(self._config), tuple)
        for step in (one for one in found.steps if one.name in steps):
            is_followed = not {step.name, recorded.steps[step.name].template}.isdisjoint(
                self._settings.follow
            )
            hides = found.use is not Use.KEPT or secrets.are_unknown(step.name)
            path = self._source(step, hides=hides)
            if path is None:
                self._say(f"{step.name} has no log", always=True)
                continue
            try:
                yield _Log(step.name, path, recorded.file, is_followed=is_followed)
            except OSError as error:
                self._say(f"the log of {step.name} cannot be read: {error}", bad=True)

    def _source(self, step: StepCondition, *, hides: bool) -> Path | None:
        """Return the file with the log of a step.

        Args:
            step: the step.
            hides: whether the file to which its programs write may contain secrets.
        """
        if step.output is None or not hides:
            return step.output or step.log
        text = (
            f"only the masked log of {step.name} is shown, because its programs may write secrets"
        )
        self._say(f"{text}; they write to {step.output}", always=True)
        return step.log


class _Log:
    """The log of a step, and how much of it has been printed.

    Args:
        step: the step.
        path: the file.
        journal: the journal of the environment.
        is_followed: whether to print what is added to it.

    Raises:
        OSError: it cannot be read.
    """

    def __init__(self, step: str, path: Path, journal: Path, *, is_followed: bool) -> None:
        self.step = step
        self.is_followed = is_followed
        self._path = path
        self._journal = journal
        self._file: IO[bytes] = path.open("rb")  # it can be read after the step was cleaned up
        self._mark = 0

    @property
    def has_ended(self) -> bool:
        """Whether nothing is added any more, because the file or the environment is gone."""
        try:
            return not self._journal.exists() or not os.path.samestat(
                os.fstat(self._file.fileno()), self._path.stat()
            )
        except OSError:
            return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def more(self, *, wholly: bool) -> Iterator[str]:
        """Yield the next lines; the last one without its end only if `wholly` is true."""
        while True:
            gain = next_lines(self._file, self._mark, Masker(), wholly=wholly)
            if gain.mark == self._mark:
                return
            self._mark = gain.mark
            yield gain.text
