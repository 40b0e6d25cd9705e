"""Remembers how the last runs of each step went, in the file `plan_dir/history`.

Nothing depends on the history. A file that cannot be read or written is ignored, and if two runs
end at the same moment, the file may have only one of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from pytest_plan.engine.definition.names import worker_of
from pytest_plan.engine.environments.private import check_ours, make_private
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.model.outcomes import StepOutcome
from pytest_plan.engine.model.results import StepResult

if TYPE_CHECKING:
    from pytest_plan.plugin.interface.options import Settings

FILE = "history"
KEPT_RUNS = 50  # of each step
KEPT_STEPS = 500
_LARGEST = 4 * 1024 * 1024  # bytes of a file that is read
_LATEST = 1e11  # seconds; more is no time
_SCHEMA = 1
_COMPARABLE = 3  # the number of successful runs that make a median
_SLOWER = 2.0  # times the median, for a step to be called slow
_LATER = 0.5  # and seconds more than the median


class StepRecord(NamedTuple):
    """One run of a step.

    Attributes:
        ended: when the run of the plan ended, in seconds since 1970.
        seconds: how long the step took, with its retries.
        attempts: how many attempts it took.
        has_succeeded: whether the last attempt succeeded.
    """

    ended: float
    seconds: float
    attempts: int
    has_succeeded: bool


Records: TypeAlias = dict[str, list[StepRecord]]


class History:
    """What this run knows of earlier runs of its steps, and what it adds.

    Args:
        settings: the options, which say where the history is and whether there is one.
    """

    def __init__(self, settings: Settings) -> None:
        self._plan_dir = settings.dir
        self._is_wanted = settings.record_history

    @cached_property
    def _records(self) -> Records:
        return read(self._plan_dir) if self._is_wanted else {}

    def expected(self) -> Callable[[str], float] | None:
        """Return a function that returns the seconds that a step is expected to take, or 0.

        None means that nothing is known of any step.
        """
        if not self._records:
            return None
        return lambda name: median(self._records.get(step_of(name), [])) or 0.0

    def note_on(self, result: StepResult) -> str:
        """Return what is unusual about a step that has succeeded, or what it does often; or ''."""
        earlier = self._records.get(step_of(result.name), [])
        notes = []
        usual = median(earlier) if len(_successful(earlier)) >= _COMPARABLE else None
        if usual is not None and result.seconds > max(usual * _SLOWER, usual + _LATER):
            notes.append(f"median {format_duration(usual)}")
        retried = sum(record.attempts > 1 for record in earlier)
        if retried and len(result.attempts) > 1:
            runs = len(earlier) + 1
            notes.append(f"{retried + 1} of its last {runs} runs needed retries")
        return "; ".join(notes)

    def add(self, results: Iterable[StepResult]) -> None:
        """Add the steps that this run has provisioned or has tried to provision."""
        new = _records_of(results) if self._is_wanted else {}
        if not new:
            return
        records = read(self._plan_dir)  # another run may have ended meanwhile
        for name, record in new.items():
            records[name] = [*records.pop(name, []), record][-KEPT_RUNS:]
        with contextlib.suppress(OSError, JournalError):
            _write(self._plan_dir, dict(list(records.items())[-KEPT_STEPS:]))


def step_of(name: str) -> str:
    """Return the name under which a step is in the history: instances for workers share one."""
    worker = worker_of(name)
    return name if worker is None else name.removesuffix(f"@{worker}")


def median(records: Sequence[StepRecord]) -> float | None:
    """Return the median duration of the runs that succeeded; None if there are none."""
    seconds = [record.seconds for record in _successful(records)]
    return sorted(seconds)[(len(seconds) - 1) // 2] if seconds else None


def read(plan_dir: Path) -> Records:
    """Return the last runs of each step, oldest first; nothing if there is no usable file."""
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError, JournalError):
        check_ours(plan_dir)
        found = json.loads(_content(plan_dir / FILE))
        if isinstance(found, dict) and found.get("schema") == _SCHEMA:
            return _checked(found.get("steps"))
    return {}


def _successful(records: Sequence[StepRecord]) -> list[StepRecord]:
    return [record for record in records if record.has_succeeded]


def _records_of(results: Iterable[StepResult]) -> dict[str, StepRecord]:
    """Return the run of each step; of the instances for all workers, the one that took longest."""
    ended = SystemClock.wall()
    new: dict[str, StepRecord] = {}
    for result in results:
        outcome = result.outcome
        if result.started is None or not (outcome is StepOutcome.SUCCEEDED or outcome.is_failure):
            continue
        name, attempts = step_of(result.name), len(result.attempts)
        record = StepRecord(
            round(ended), round(result.seconds, 3), attempts, outcome is StepOutcome.SUCCEEDED
        )
        new[name] = max(new.get(name, record), record, key=lambda one: one.seconds)
    return new


def _content(file: Path) -> bytes:
    # The folder may come from elsewhere: no link is followed, and a pipe does not block.
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as content:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            raise ValueError(f"{file} is not a history")
        return content.read(_LARGEST)


def _checked(steps: object) -> Records:
    if not isinstance(steps, dict):
        raise TypeError("steps")
    return {str(name): [_record(*record) for record in records] for name, records in steps.items()}


def _record(*values: object) -> StepRecord:
    match values:
        case int() | float() as ended, int() | float() as seconds, int() as attempts, bool() as ok:
            if 0 <= ended <= _LATEST and 0 <= seconds <= _LATEST and attempts > 0:
                return StepRecord(ended, seconds, attempts, ok)
    raise ValueError("record")


def _write(plan_dir: Path, records: Mapping[str, Sequence[StepRecord]]) -> None:
    make_private(plan_dir, plan_dir)
    text = json.dumps({"schema": _SCHEMA, "steps": records}, separators=(",", ":"))
    descriptor, temporary = tempfile.mkstemp(prefix=f"{FILE}.", dir=plan_dir)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, plan_dir / FILE)
    except BaseException:
        os.unlink(temporary)
        raise
