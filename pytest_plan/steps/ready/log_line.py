"""The condition that a server has written a certain line."""

from __future__ import annotations

import re

from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.shared.programs.readiness import Condition, NotReadyError, Target

_SHOWN = 200  # the characters of the last line that a message shows


def log_line(regex: str | re.Pattern[str], times: int = 1) -> Condition:
    """Return the condition that the server has written lines that match.

    Only its output since this start is searched, without the line that shows its command.

    Args:
        regex: a regular expression that must match somewhere in a line.
        times: how many lines must match.

    Raises:
        PlanDefinitionError: an argument is invalid.
    """
    try:
        pattern = re.compile(regex)
    except (re.error, TypeError) as error:
        raise PlanDefinitionError(
            f"log_line: {regex!r} is not a regular expression: {error}"
        ) from None
    if not isinstance(pattern.pattern, str):
        raise PlanDefinitionError(f"log_line: {regex!r} is a pattern for bytes; use one for text")
    if not _is_count(times):
        raise PlanDefinitionError(f"log_line: times is {times!r}; use a number of at least 1")
    return LogLine(pattern, times)


def _is_count(times: object) -> bool:
    return isinstance(times, int) and not isinstance(times, bool) and times > 0


class LogLine(Condition):
    """The condition that `log_line` returns.

    Args:
        pattern: the regular expression.
        times: how many lines must match.
    """

    def __init__(self, pattern: re.Pattern[str], times: int) -> None:
        self.made = log_line, (pattern.pattern, times)
        if pattern.flags != re.compile(pattern.pattern).flags:
            self.made = None
        self._pattern = pattern
        self._times = times

    def check(self, target: Target, timeout: float) -> None:
        """Search the output of the server; see `Condition.check`."""
        if not target.is_ours:
            return
        lines = target.output().splitlines()
        count = sum(1 for line in lines if self._pattern.search(line))
        if count >= self._times:
            return
        what = f"log_line {self._pattern.pattern!r}"
        if count:
            raise NotReadyError(f"{what}: {count} of {self._times} lines")
        last = next((line.strip() for line in reversed(lines) if line.strip()), None)
        raise NotReadyError(
            f"{what}: nothing was written"
            if last is None
            else f"{what}: no such line; the last one is {last[:_SHOWN]!r}"
        )
