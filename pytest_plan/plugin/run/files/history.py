"""Remembers how the last runs of each step went, in the file `plan_dir/history`.

Each run appends a line, so runs can end at the same time, and a damaged line is the only one that
is lost. Nothing depends on the history: a file that cannot be read or written is ignored.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

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
MOST_LINES = 2 * KEPT_RUNS  # more are reduced to what is kept
_SMALL = 64 * 1024  # bytes; the lines of such a file are not counted
_LARGEST = 4 * 1024 * 1024  # bytes of a file that is read
_LATEST = 1e11  # seconds; more is no time
_COMPARABLE = 3  # the number of successful runs that make a median
_SLOWER = 2.0  # times the median, for a step to be called slow
_LATER = 0.5  # and seconds more than the median


class StepRecord(NamedTuple):
    """One run of a step.

    Attributes:
        seconds: how long the step took, with its retries.
        attempts: how many attempts it took.
        has_succeeded: whether the last attempt succeeded.
    """

    seconds: float
    attempts: int
    has_succeeded: bool


class RunRecord(NamedTuple):
    """One run of a plan: a line of the file.

    Attributes:
        ended: when it ended, in seconds since 1970.
        steps: the steps that it has provisioned or has tried to provision.
    """

    ended: float
    steps: Mapping[str, StepRecord]


Steps: TypeAlias = dict[str, list[StepRecord]]


class History:
    """What this run knows of earlier runs of its steps, and what it adds.

    Args:
        settings: the options, which say where the history is and whether there is one.
    """

    def __init__(self, settings: Settings) -> None:
        self._plan_dir = settings.dir
        self._is_wanted = settings.record_history

    @cached_property
    def _steps(self) -> Steps:
        return by_step(read(self._plan_dir)) if self._is_wanted else {}

    def expected(self) -> Callable[[str], float]:
        """Return a function that returns the seconds that a step is expected to take, or 0."""
        return lambda name: median(self._steps.get(step_of(name), [])) or 0.0

    def note_on(self, result: StepResult) -> str:
        """Return what is unusual about a step that has succeeded, or what it does often; or ''."""
        is_retried = len(result.attempts) > 1
        if result.seconds <= _LATER and not is_retried:
            return ""  # so that quick steps need not read the file
        earlier = self._steps.get(step_of(result.name), [])
        notes = []
        usual = median(earlier) if len(_successful(earlier)) >= _COMPARABLE else None
        if usual is not None and result.seconds > max(usual * _SLOWER, usual + _LATER):
            notes.append(f"median {format_duration(usual)}")
        retried = sum(record.attempts > 1 for record in earlier)
        if retried and is_retried:
            runs = len(earlier) + 1
            notes.append(f"{retried + 1} of its last {runs} runs needed retries")
        return "; ".join(notes)

    def add(self, results: Iterable[StepResult]) -> None:
        """Add the steps that this run has provisioned or has tried to provision."""
        steps = _records_of(results) if self._is_wanted else {}
        if not steps:
            return
        with contextlib.suppress(OSError, JournalError):
            make_private(self._plan_dir, self._plan_dir)
            _append(self._plan_dir / FILE, RunRecord(round(SystemClock.wall()), steps))


def step_of(name: str) -> str:
    """Return the name under which a step is in the history: instances for workers share one."""
    worker = worker_of(name)
    return name if worker is None else name.removesuffix(f"@{worker}")


def by_step(runs: Iterable[RunRecord]) -> Steps:
    """Return the last runs of each step, oldest first."""
    found: Steps = {}
    for run in runs:
        for name, record in run.steps.items():
            found.setdefault(name, []).append(record)
    return {name: records[-KEPT_RUNS:] for name, records in found.items()}


def median(records: Sequence[StepRecord]) -> float | None:
    """Return the median duration of the runs that succeeded; None if there are none."""
    seconds = [record.seconds for record in _successful(records)]
    return sorted(seconds)[(len(seconds) - 1) // 2] if seconds else None


def read(plan_dir: Path) -> list[RunRecord]:
    """Return the runs in the history, oldest first; none if there is no usable file."""
    with contextlib.suppress(OSError, JournalError):
        check_ours(plan_dir)
        with _opened(plan_dir / FILE, os.O_RDONLY) as file:
            return list(_parsed(os.read(file, _LARGEST)))
    return []


def _successful(records: Sequence[StepRecord]) -> list[StepRecord]:
    return [record for record in records if record.has_succeeded]


def _records_of(results: Iterable[StepResult]) -> dict[str, StepRecord]:
    """Return the run of each step; of the instances for all workers, the one that took longest."""
    new: dict[str, StepRecord] = {}
    for result in results:
        outcome = result.outcome
        if result.started is not None and (outcome is StepOutcome.SUCCEEDED or outcome.is_failure):
            name = step_of(result.name)
            has_succeeded = outcome is StepOutcome.SUCCEEDED
            record = StepRecord(round(result.seconds, 3), len(result.attempts), has_succeeded)
            new[name] = max(new.get(name, record), record)
    return new


@contextlib.contextmanager
def _opened(file: Path, flags: int) -> Iterator[int]:
    """Open the file, or raise OSError.

    The folder may come from elsewhere, so no link is followed, and a pipe does not block.
    """
    safely = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(file, flags | safely, 0o600)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            raise OSError(f"{file} is not a history")
        yield descriptor
    finally:
        os.close(descriptor)


def _parsed(content: bytes) -> Iterator[RunRecord]:
    for line in content.splitlines():
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            yield _run(json.loads(line))


def _run(found: Any) -> RunRecord:
    match found:
        case {"ended": int() | float() as ended, "steps": dict() as steps} if 0 <= ended <= _LATEST:
            return RunRecord(ended, {name: _step(*record) for name, record in steps.items()})
    raise ValueError("not a run")


def _step(seconds: Any, attempts: Any, has_succeeded: Any) -> StepRecord:
    # NaN is neither.
    if 0 <= seconds <= _LATEST and attempts > 0 and isinstance(has_succeeded, bool):
        return StepRecord(seconds, attempts, has_succeeded)
    raise ValueError("not a step")


def _line(run: RunRecord) -> bytes:
    # A line that was cut off because its writer was killed must not spoil this one.
    return b"\n" + json.dumps(run._asdict(), separators=(",", ":")).encode()


def _append(file: Path, run: RunRecord) -> None:
    try:
        with _opened(file, os.O_RDWR | os.O_APPEND | os.O_CREAT) as opened:
            os.write(opened, _line(run))
            if os.fstat(opened).st_size < _SMALL:
                return
            content = os.pread(opened, _LARGEST, 0)
    except OSError:
        content = b""  # it is no file of ours, or too large
    if content.count(b"\n") <= MOST_LINES and content:
        return
    _replace(file, _kept([*_parsed(content)]) if content else [run])


def _kept(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the last runs of each step, without those of steps that have not run for long."""
    counts: dict[str, int] = {}
    kept = []
    for run in reversed(runs):
        for name in run.steps:
            if name in counts or len(counts) < KEPT_STEPS:
                counts[name] = counts.get(name, 0) + 1
        steps = {
            name: record
            for name, record in run.steps.items()
            if 0 < counts.get(name, 0) <= KEPT_RUNS
        }
        if steps:
            kept.append(RunRecord(run.ended, steps))
    return kept[::-1]


def _replace(file: Path, runs: Iterable[RunRecord]) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f"{FILE}.", dir=file.parent)
    try:
        with open(descriptor, "wb") as opened:
            opened.writelines(map(_line, runs))
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise
