"""Rows 25 and 29 for every kind of step: what is on the disk at any kill is enough, and no more."""

from __future__ import annotations

import os
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_plan import Context, GenericStep, Plan, Step
from pytest_plan.engine.journal.reader import Recorded, read
from pytest_plan.engine.journal.writing.writer import Writer
from pytest_plan.engine.plan import _own_environment
from tests.faults.harness.scenario import Tally

MOST = 300  # more moments than a run has
KINDS = ("plain", "hook", "valued", "deferred", "reader", "program", "again", "last")
WITH_TAIL = ("plain", "tail", "hook", "last")
ENDED_BY_OTHERS = ("hook", "valued", "deferred", "reader", "again")
OWN_CALLS_ONLY = ("tail", "program")  # no other process calls anything of these


class Moments:
    """Counts the moments of a run, and kills it at one of them.

    Args:
        history: the file for what the steps do.
        last: the number of the moment at which the run is killed.
    """

    def __init__(self, history: Path, last: int) -> None:
        self._history = history
        self._last = last
        self._count = 0

    def note(self, *words: object) -> None:
        """Record what a step has done; this is a moment."""
        note(str(self._history), *map(str, words))
        self.pass_()

    def pass_(self) -> None:
        """Kill the process if this is the moment."""
        self._count += 1
        if self._count == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


def note(history: str, *words: str) -> None:
    """Append a line to the history; steps also defer this function."""
    with Path(history).open("a") as file:
        file.write(" ".join(words) + "\n")


def steps_of(moments: Moments, history: Path) -> dict[str, Step]:
    """Return a step of each kind."""

    def made(name: str) -> Callable[[], None]:
        return lambda: moments.note("made", name)

    def undone(name: str) -> Callable[[], None]:
        return lambda: moments.note("undone", name)

    def value() -> str:
        moments.note("made", "valued")
        return "token"

    def undone_with_value(value: Any) -> None:
        moments.note("undone", "valued", value)

    def undone_with_state(state: Any) -> None:
        moments.note("undone", "reader", state["valued"])

    def deferring(name: str) -> Callable[[Context], None]:
        def defer(ctx: Context) -> None:
            moments.pass_()
            ctx.defer(note, str(history), "undone", name)
            moments.note("made", name)

        return defer

    def tail() -> Iterator[None]:
        moments.note("made", "tail")
        yield
        moments.note("undone", "tail")

    def program(ctx: Context) -> None:
        moments.note("started", ctx.start(["sleep", "60"]).pid)

    return {
        "plain": GenericStep(exec=made("plain")),
        "hook": GenericStep(exec=made("hook"), cleanup=undone("hook")),
        "valued": GenericStep(exec=value, cleanup=undone_with_value),
        "deferred": GenericStep(exec=deferring("deferred")),
        "reader": GenericStep(exec=made("reader"), cleanup=undone_with_state),
        "tail": GenericStep(exec=tail),
        "program": GenericStep(exec=program),
        "again": GenericStep(exec=deferring("again")),
        "last": GenericStep(exec=made("last")),
    }


def plan_of(kinds: Sequence[str], folder: Path, moments: Moments, history: Path) -> Plan:
    """Return a plan with these steps, which run one after the other."""
    plan, steps = Plan(journal=folder), steps_of(moments, history)
    for name in kinds:
        plan.add_step(steps[name], name=name)
    return plan


def killed(kinds: Sequence[str], folder: Path, history: Path, last: int) -> bool:
    """Run the plan in a forked process; return whether it was killed."""
    pid = os.fork()
    if pid:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, -signal.SIGKILL)
        return status != 0
    moments, write = Moments(history, last), Writer._write

    def counting(*arguments: Any) -> None:
        moments.pass_()
        write(*arguments)
        moments.pass_()

    try:
        tempfile.tempdir = str(folder.parent)  # another process keeps the folder of the run
        Writer._write = counting  # type: ignore[method-assign, assignment]
        plan_of(kinds, folder, moments, history).execute()
        os._exit(0)
    finally:
        os._exit(1)


def recorded_in(folder: Path) -> Recorded | None:
    """Return the content of the journal that the run has left; None if there is none."""
    found = list(folder.glob("environments/*/journal.sqlite"))
    return read(found[0]) if found else None


def check_journal(kinds: Sequence[str], recorded: Recorded, done: list[list[str]]) -> None:
    """Check that the journal has what somebody needs, and nothing that has not happened."""
    made = [line[1] for line in done if line[0] == "made"]
    undone = [line[1] for line in done if line[0] == "undone"]
    assert tuple(recorded.steps) == kinds[: len(recorded.steps)]
    begun = kinds.index(made[-1]) + 1 if made else 0
    assert len(recorded.steps) <= begun + 1 + ("program" in kinds[begun : begun + 1])
    for name in (*ENDED_BY_OTHERS, "tail"):
        assert name in recorded.steps or name not in made, f"{name} is not in the journal"
    for step in recorded.steps.values():
        assert step.outcome in ("running", "succeeded")
    cleaned = {name for name, step in recorded.steps.items() if step.owners}
    assert len(cleaned - set(undone) - set(OWN_CALLS_ONLY)) <= 1


def check_undone(done: list[list[str]]) -> None:
    """Check that everything was undone that another process can undo, with the right values."""
    counts = Counter(tuple(line[1:]) for line in done if line[0] == "undone")
    made = [line[1] for line in done if line[0] == "made"]
    expected = {"valued": ("valued", "token"), "reader": ("reader", "token")}
    for name in ENDED_BY_OTHERS:
        if name == "valued" and made[-1:] == ["valued"]:
            continue  # its value may be missing, so that the hook had nothing to undo
        if name in made:
            assert 1 <= counts[expected.get(name, (name,))] <= 2, f"{name} is not undone"
    for line in done:
        if line[0] == "started":
            assert not is_alive(int(line[1]))


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended may be waiting for its parent."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("kinds", [KINDS, WITH_TAIL], ids=["others can undo", "with a tail"])
def test_g1_a_kill_at_any_moment_loses_nothing_of_any_kind_of_step(
    tmp_path: Path, tally: Tally, kinds: tuple[str, ...]
) -> None:
    """At each write and each deed, the journal has what must be undone, and others undo it.

    What only the killed process could have called is named.
    """
    for last in range(1, MOST):
        folder, history = tmp_path / str(last), tmp_path / f"{last}.txt"
        history.touch()
        tally.runs += 1
        if not killed(kinds, folder, history, last):
            break
        tally.kills += 1
        tally.faults += 1
        done = [line.split() for line in history.read_text().splitlines()]
        if (recorded := recorded_in(folder)) is not None:
            check_journal(kinds, recorded, done)
        own = _own_environment(plan_of(kinds, folder, Moments(history, 0), history), "next")
        assert own is not None
        own.journal.close()
        own.end()
        check_undone([line.split() for line in history.read_text().splitlines()])
        left = recorded_in(folder)
        named = [] if left is None else [step.name for step in left.due()]
        assert set(named) <= {"tail"}
        if ["made", "hook"] in done and ["undone", "tail"] not in done:
            assert named == ["tail"] * ("tail" in kinds)
    else:
        pytest.fail("the run has no end")
    assert last > 10
