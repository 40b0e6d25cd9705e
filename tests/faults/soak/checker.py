"""Judges a random run from outside. Knows nothing of pytest-plan but its promises.

It reads the process table, the listening ports, the files that steps created, the history, the
output and the exit status, and compares them with what was injected.
"""

from __future__ import annotations

import math
import re
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from tests.faults.harness import checker as harness
from tests.faults.harness.checker import Line
from tests.faults.soak import outside
from tests.faults.soak.plans import GENERATORS, HOOK_KINDS, Drawn, Shot, StepData

STATUS = {signal.SIGINT: 2, signal.SIGTERM: 143, signal.SIGHUP: 129}
FAILED = ("in", "cleanup")  # the last words of a note about a failed cleanup
EXIT = 7  # the status that `pytest.exit` asks for
MOST_OWNERS = 3
_TOGETHER = 0.5  # seconds within which a signal is part of the previous one
_AT_ONCE = 0.2  # seconds within which either of two signals may be handled first
_RECORDED = 0.2  # seconds after which a `yield` is in the journal, on a busy machine
_UNDOING = ("cleanup", "cleaned", "undo", "undone")
_SUMMARY = re.compile(r"^=*.*\b(passed|failed|errors?|blocked|no tests ran)\b.* in [\d.]+s", re.M)
_CRASH = re.compile(r"^Traceback \(most recent call last\):\n(?:[ ~^].*\n)*?.*/pytest_plan/", re.M)


@dataclass
class Ended:
    """A run that has ended, as seen from outside.

    Attributes:
        drawn: what was to happen.
        sent: the signals that were sent before it ended, and when.
        status: the exit status, negative after a signal.
        output: everything it printed.
        history: what its steps and tests did, in the order of time.
        recovered: what a later `pytest --plan-cleanup` printed; None if nothing was left for it.
    """

    drawn: Drawn
    folder: Path
    mark: str
    sent: list[tuple[Shot, float]] = field(default_factory=list)
    status: int | None = None
    output: str = ""
    history: list[Line] = field(default_factory=list)
    recovered: str | None = None

    def notes(self, what: str) -> list[str]:
        """Return the words of all events `what`."""
        return [" ".join(line.words) for line in self.history if line.what == what]

    @property
    def killed(self) -> bool:
        """Whether pytest itself was killed, so that another process had to clean up."""
        return self.status == -signal.SIGKILL

    @property
    def cut(self) -> bool:
        """Whether the signals may have made pytest leave the rest of its cleanup to the reaper."""
        times = [time for shot, time in self.sent if shot.target != "worker"]
        return len(times) > 1 and times[-1] - times[0] > _TOGETHER

    @property
    def is_early(self) -> bool:
        """Whether a signal came before the first step began: no plan handles it."""
        begun = min((line.time for line in self.history if line.what == "begin"), default=math.inf)
        return any(time <= begun for shot, time in self.sent if shot.target != "worker")

    @property
    def later(self) -> set[int]:
        """The other processes that have cleaned up: the reaper's, and `pytest --plan-cleanup`."""
        return {line.pid for line in self.history if line.what == "owner"} - {self.owner}

    @property
    def owner(self) -> int | None:
        """The process id of pytest, which is the controller when there are workers."""
        return next((line.pid for line in self.history if line.what == "owner"), None)

    @property
    def has_failed(self) -> bool:
        """Whether a cleanup or a deferred call has failed, so that another process repeats it."""
        return any(line.what == "fault" and line.words[2:] == FAILED for line in self.history)

    @property
    def is_handed_over(self) -> bool:
        """Whether another process than pytest may have to clean up."""
        return self.killed or self.cut or self.has_failed


def violations(ended: Ended) -> Iterator[str]:
    """Yield a description of everything that is wrong with the run."""
    yield from left(ended)
    yield from _status(ended)
    yield from _output(ended)
    yield from _history(ended)


def is_quiet(folder: Path, mark: str, ports: set[int]) -> bool:
    """Return whether nothing of the run is alive."""
    return not outside.processes(mark, folder) and not outside.listeners(ports)


def ports_of(history: list[Line]) -> set[int]:
    """Return the ports on which programs of the run's steps listened."""
    return {int(line.words[1]) for line in history if line.what == "port"}


def left(ended: Ended, *, by_reaper: bool = False) -> Iterator[str]:
    """Yield everything that the run has left.

    Args:
        ended: the run.
        by_reaper: whether `pytest --plan-cleanup` has not run yet. It still removes the folders of
            a run in which something was or may have been lost, in which a cleanup failed, or which
            was killed before its first step: the reaper may not have been started yet.
    """
    for process in outside.processes(ended.mark, ended.folder):
        yield f"left running: {process}"
    for port, program in outside.listeners(ports_of(ended.history)).items():
        yield f"port {port} is still open: {program}"
    lost = _lost(ended)
    if by_reaper and (lost or ended.has_failed or _just_undone(ended) or not ended.notes("begin")):
        return
    for path in sorted((ended.folder / "outside").iterdir()):
        if tuple(path.name.split(".", 1)) not in lost:
            yield f"not removed: {path.name}"
    for path in (ended.folder / "t").iterdir():
        if not path.name.startswith("pytest-of-"):  # pytest keeps the folders of workers
            yield f"temporary folder left: {path.name}"
    for path in (ended.folder / "project" / ".pytest_plan" / "environments").glob("*"):
        yield f"environment left: {path.name}"


def statuses(ended: Ended) -> set[int]:
    """Return the exit statuses that are right after what was injected and what happened."""
    natural = _natural(ended)
    shots = [(shot, time) for shot, time in ended.sent if shot.target != "worker"]
    if not shots:
        return natural
    first, sent = shots[0]
    done = [
        line.time
        for line in ended.history
        if line.what in (*_UNDOING, "begin", "tested") and line.pid not in ended.later
    ]
    last = max(done, default=0.0)
    is_outside = ended.is_early or sent > last  # no plan handles the signal
    if first.number == signal.SIGKILL:
        return {-signal.SIGKILL} | (natural if is_outside else set())
    # Python handles signals that wait at the same time in the order of their numbers.
    right = {STATUS[signal.Signals(shot.number)] for shot, time in shots if time - sent < _AT_ONCE}
    # pytest no longer handles a signal at its very end.
    right |= {-shot.number for shot, time in shots if is_outside or time > last}
    return right | natural if is_outside else right


def _natural(ended: Ended) -> set[int]:
    """Return the statuses that are right if no signal decides."""
    faults = ended.notes("fault")
    right = {1} if faults else {0}
    if any(fault.endswith("exit") for fault in faults):
        right |= {2, EXIT}
        if ended.drawn.workers:  # `pytest.exit` in a worker is an internal error of pytest-xdist
            right |= {3}
    if ended.drawn.is_short or any(shot.target == "worker" for shot, _ in ended.sent):
        right |= {0, 1}
    return right


def _status(ended: Ended) -> Iterator[str]:
    if ended.status not in (right := statuses(ended)):
        yield f"exit status {ended.status}, not one of {sorted(right)}"


def _output(ended: Ended) -> Iterator[str]:
    exits = any(note.startswith("test exit") for note in ended.notes("fault"))
    for text in (ended.output, ended.recovered or ""):
        if "INTERNALERROR" in text and not (exits and ended.drawn.workers):
            yield "INTERNALERROR in the output"
        if _CRASH.search(text):
            yield "a traceback through pytest-plan in the output"
    solo_and_stuck = "test stubborn" in ended.notes("fault") and not ended.drawn.workers
    may_lack = (ended.status or 0) < 0 or ended.cut or ended.is_early or solo_and_stuck
    if not may_lack and not _SUMMARY.search(ended.output):
        yield "no summary in the output"
    for line in ended.notes("unreachable"):
        if not ended.killed:
            yield f"a test found nobody on the port of step {line}"


def _history(ended: Ended) -> Iterator[str]:
    history = [line for line in ended.history if line.what != "exit" or not _is_cut(ended, line)]
    lost = _lost(ended)
    about = ("owed", "announce", "defer", *_UNDOING)
    history = [line for line in history if line.what not in about or line.words not in lost]
    units = _units(ended.drawn, list(_owed(ended, history)))
    if ended.is_handed_over:
        yield from _repeated(units)
        units = _without_repetition(units)
        for step in sorted(_recorded(ended, lost)):
            if step not in (ended.recovered or ""):
                yield f"step {step} is lost and was not reported"
    blocked = [step.name for step in ended.drawn.steps if step.fault == "block"]
    stuck = [f"{name}{thread}" for name in blocked for thread in ("", "-loop", "-generator")]
    needs = _needs(ended.drawn, units)
    yield from harness.violations(units, needs, stuck=stuck)
    yield from _reversed(ended.drawn, history)
    for line in history:
        if line.what == "tested" and ended.notes("tested").count(line.words[0]) > 1:
            yield f"test {line.words[0]} ran more than once"


def _is_cut(ended: Ended, line: Line) -> bool:
    """Return whether a signal may have cut the exit of this process short."""
    return line.pid != ended.owner or ended.is_handed_over


def _lost(ended: Ended) -> set[tuple[str, str]]:
    """Return what was lost because only a dead process could undo it, by step and token.

    These are the code after a `yield` and deferred closures. Another process reports them instead.
    """
    if not ended.is_handed_over:
        return set()
    kinds = {step.name: step.kind for step in ended.drawn.steps}
    due: set[tuple[str, str]] = set()
    for line in ended.history:
        is_tail = line.what in ("owed", "cleaned") and kinds[line.words[0]] in GENERATORS
        is_closure = line.what in ("announce", "undone") and line.words[1].endswith("closure")
        if is_tail or is_closure:
            what = (line.words[0], line.words[1])
            due = due | {what} if line.what in ("owed", "announce") else due - {what}
    return due


def _just_undone(ended: Ended) -> bool:
    """Return whether a kill came right after something was undone, which may not be recorded."""
    end = max((time for _, time in ended.sent), default=math.inf)
    return any(
        line.what in _UNDOING and line.pid == ended.owner and line.time > end - _RECORDED
        for line in ended.history
    )


def _recorded(ended: Ended, lost: set[tuple[str, str]]) -> set[str]:
    """Return the steps of which something is lost that must be reported.

    A generator does not wait until its `yield` is recorded, which takes some milliseconds.
    """
    end = max((time for _, time in ended.sent), default=math.inf)
    return {
        line.words[0]
        for line in ended.history
        if (line.what == "defer" or (line.what == "owed" and line.time < end - _RECORDED))
        and line.words in lost
    }


def _units(drawn: Drawn, history: list[Line]) -> list[Line]:
    """Return the history in the words of the fault suite's checker.

    There, `begin` says that a cleanup is due, and `defer` that an undo is. A generator owes one
    cleanup for each of its attempts that reached the `yield`, so each attempt counts as a step.
    """
    steps = {step.name: step for step in drawn.steps}
    kept = {line.words for line in history if line.what in ("defer", "undo")}
    renamed = {"owed": "begin", "announce": "defer"}
    units: list[Line] = []
    seen: set[tuple[str, ...]] = set()
    for line in history:
        step = steps.get(line.words[0]) if line.words else None
        if line.what in ("begin", "defer") or (line.what == "announce" and line.words not in kept):
            continue
        if step is None or line.what not in ("owed", "announce", "cleanup", "cleaned", "done"):
            units.append(line)
            continue
        words = (line.what, *_name(step, line))
        if line.what == "owed" and words in seen:
            continue
        seen.add(words)
        what = renamed.get(line.what, line.what)
        units.append(Line(line.time, line.pid, what, words[1:]))
    return units


def _owed(ended: Ended, history: list[Line]) -> Iterator[Line]:
    """Yield the history, with a line for each cleanup hook that is due from the beginning.

    Such a hook also runs if its step was cancelled before any of its code ran. After SIGKILL, the
    cleanup hook of any step runs unless the step is known to have failed.
    """
    hooks = [step for step in ended.drawn.steps if step.kind in HOOK_KINDS]
    attempted = {step.name for step in hooks if step.attempted}
    due = {line.words[0] for line in history if line.what == "owed"}
    due |= {line.words[0] for line in history if line.what == "begin"} & attempted
    unclear = attempted | ({step.name for step in hooks} if ended.killed else set())
    for line in history:
        name = line.words[0] if line.words else ""
        if line.what == "begin" and name in attempted:
            yield Line(line.time, line.pid, "owed", line.words)
        elif line.what == "owed" and name in attempted:
            continue
        elif name in due or name not in unclear or line.what not in ("cleanup", "cleaned"):
            yield line


def _name(step: StepData, line: Line) -> tuple[str, ...]:
    if line.what == "announce":
        return line.words
    is_unit = step.kind in GENERATORS and line.what != "done"
    return (f"{step.name}/{line.words[1]}" if is_unit else step.name,)


def _needs(drawn: Drawn, units: list[Line]) -> dict[str, list[str]]:
    """Return the need edges between what owes a cleanup."""
    owed: dict[str, list[str]] = defaultdict(list)
    for line in units:
        if line.what == "begin":
            owed[line.words[0].partition("/")[0]].append(line.words[0])
    return {
        unit: list(step.needs or ()) for step in drawn.steps for unit in owed.get(step.name, [])
    }


def _repeated(units: list[Line]) -> Iterator[str]:
    """Yield what one process undid twice, or more processes than may try."""
    by_what = Counter(
        (line.what, *line.words) for line in units if line.what in ("cleanup", "undo")
    )
    by_pid = Counter(
        (line.pid, line.what, *line.words) for line in units if line.what in ("cleanup", "undo")
    )
    for (pid, *words), count in by_pid.items():
        if count > 1:
            yield f"process {pid} did {' '.join(map(str, words))} {count} times"
    for deed, count in by_what.items():
        if count > MOST_OWNERS:
            yield f"{' '.join(deed)} was tried {count} times"


def _without_repetition(units: list[Line]) -> list[Line]:
    """Return the history with each cleanup and undo only once."""
    first: dict[tuple[str, ...], Line] = {}
    for line in units:
        first.setdefault((line.what, *line.words), line)
    return [
        line for line in units if line.what not in _UNDOING or first[line.what, *line.words] is line
    ]


def _reversed(drawn: Drawn, history: list[Line]) -> Iterator[str]:
    """Yield steps that were undone before steps that need or follow them, in any one process."""
    for pid, lines in groupby(sorted(history, key=lambda line: line.pid), lambda line: line.pid):
        undone = _spans(history, list(lines))
        for step, others in _edges(drawn).items():
            for other in others:
                if step in undone and other in undone and undone[other][0] < undone[step][1]:
                    yield f"process {pid} began to undo {other} before {step} was undone"


def _spans(history: list[Line], lines: list[Line]) -> dict[str, tuple[float, float]]:
    """Return when the final undoing of each step began and ended."""
    begun = {line.words[0]: line.time for line in history if line.what == "begin"}
    spans: dict[str, tuple[float, float]] = {}
    for line in lines:
        if line.what in _UNDOING and line.time > begun.get(line.words[0], 0.0):
            first, _ = spans.get(line.words[0], (line.time, 0.0))
            spans[line.words[0]] = (first, line.time)
    return spans


def _edges(drawn: Drawn) -> dict[str, list[str]]:
    """Return the steps that each step needs or, if it names none, follows."""
    edges: dict[str, list[str]] = {}
    for number, step in enumerate(drawn.steps):
        before = [other.name for other in drawn.steps[:number]]
        edges[step.name] = before if step.needs is None else list(step.needs)
    return edges
