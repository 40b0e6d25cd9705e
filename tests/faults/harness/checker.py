"""Judges a run by the history that its fake steps wrote. Knows nothing of pytest-plan.

A line is `time pid what words...`. `begin`, `cleanup` and `cleaned` name a step, `defer` and `undo`
a step and a number, and `up` and `down` a fixture. `exit` describes a process that exits normally.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

Needs = Mapping[str, Collection[str]]


@dataclass(frozen=True, slots=True)
class Line:
    """One event: its time, its process, what happened, and to which step or fixture."""

    time: float
    pid: int
    what: str
    words: tuple[str, ...]


def read(path: Path) -> list[Line]:
    """Return the history so far."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    parts = [line.split() for line in lines if line.endswith("\n")]
    return [Line(float(time), int(pid), what, tuple(rest)) for time, pid, what, *rest in parts]


def violations(
    history: list[Line], needs: Needs, left: Collection[str] = (), stuck: Collection[str] = ()
) -> Iterator[str]:
    """Yield a description of every broken promise.

    Args:
        history: what happened.
        needs: the need edges of the plan.
        left: steps whose cleanup was cut off and reported.
        stuck: steps whose thread could not be ended and was reported as left behind.
    """
    begun = {line.words[0] for line in history if line.what == "begin"}
    cleaned = Counter(line.words[0] for line in history if line.what == "cleanup")
    for step in sorted(begun | set(cleaned)):
        expected = int(step in begun)
        if cleaned[step] != expected and not (step in left and cleaned[step] == 0):
            yield f"step {step} began: {expected}, was cleaned up {cleaned[step]} times"
    yield from _undone(history, left)
    yield from _ordered(history, needs)
    ups, downs = (Counter(x.words for x in history if x.what == what) for what in ("up", "down"))
    if downs - ups:
        yield f"fixtures torn down more often than set up: {downs - ups}"
    for line in history:
        more = set(line.words) - {"clean", *(f"plan-{step}" for step in stuck)}
        if line.what == "exit" and more:
            yield f"process {line.pid} ended with {' '.join(sorted(more))}"


def _undone(history: list[Line], left: Collection[str]) -> Iterator[str]:
    pending: dict[str, list[str]] = {}
    for line in history:
        if line.what == "defer":
            pending.setdefault(line.words[0], []).append(line.words[1])
        elif line.what == "undo":
            last = (pending.get(line.words[0]) or ["nothing"])[-1]
            if last != line.words[1]:
                yield f"step {line.words[0]} undid {line.words[1]}, what it made last was {last}"
            else:
                pending[line.words[0]].pop()
    for step, numbers in pending.items():
        if numbers and step not in left:
            yield f"step {step} did not undo {numbers}"


def _ordered(history: list[Line], needs: Needs) -> Iterator[str]:
    """Yield steps that began before their needs, or were cleaned up after them."""
    for step, others in needs.items():
        for other in others:
            begins = _places(history, "begin", step)
            done = _places(history, "done", other)
            if begins and (not done or begins[0] < done[-1]):
                yield f"step {step} began before {other} was done"
            ends = _places(history, "cleaned", step)
            starts = _places(history, "cleanup", other)
            if ends and starts and starts[0] < ends[-1]:
                yield f"step {other} was cleaned up before {step}, which needs it"


def _places(history: list[Line], what: str, step: str) -> list[int]:
    return [n for n, line in enumerate(history) if (line.what, *line.words[:1]) == (what, step)]
