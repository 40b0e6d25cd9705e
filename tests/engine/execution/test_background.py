"""Provisioning on a thread of its own, while the thread of the listeners goes on."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from functools import partial
from graphlib import TopologicalSorter

import pytest

from pytest_plan import GenericStep, Plan, StepOutcome
from pytest_plan.engine.execution.coordination.background import Background
from pytest_plan.engine.execution.coordination.growing import GrowingSorter
from pytest_plan.engine.execution.run import Run
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.model.events import StepFinished
from pytest_plan.engine.plan import begin, listen

PATIENCE = 10.0


class Steps:
    """A plan of steps that wait until they may go on, and what its listeners hear."""

    def __init__(self, needs: Mapping[str, tuple[str, ...]], jobs: int = 8) -> None:
        self.plan = Plan(jobs=jobs)
        self.begun = {name: threading.Event() for name in needs}
        self.go_on = {name: threading.Event() for name in needs}
        self.undone: list[str] = []
        self.heard: list[str] = []
        self.threads: set[int] = set()
        self.news = threading.Event()
        for name, needed in needs.items():
            step = GenericStep(
                exec=partial(self._run, name), cleanup=partial(self.undone.append, name)
            )
            self.plan.add_step(step, name=name, needs=needed, cleanup_when="attempted")
        listen(self.plan, self._hear)
        self.run: Run = begin(self.plan)
        self.background: Background = self.run.background(self.news.set)

    def begin(self, *names: str) -> None:
        """Provision some steps."""
        self.background.begin(self.run.due(names))

    def outcomes(self) -> dict[str, StepOutcome]:
        """Return the outcome of each step."""
        return {name: step.outcome for name, step in self.run.result().steps.items()}

    def _run(self, name: str) -> None:
        self.begun[name].set()
        assert self.go_on[name].wait(PATIENCE)

    def _hear(self, event: object) -> None:
        self.threads.add(threading.get_ident())
        if isinstance(event, StepFinished):
            self.heard.append(event.result.name)


def test_this_thread_goes_on_and_gets_the_events_when_it_asks_for_them() -> None:
    """`told` is called when there are events; `pump` and `settle` deliver them on this thread."""
    steps = Steps({"server": (), "database": ("server",)})
    steps.begin("database")
    assert steps.begun["server"].wait(PATIENCE)
    assert steps.outcomes()["server"] is StepOutcome.RUNNING
    steps.go_on["server"].set()
    assert steps.begun["database"].wait(PATIENCE)
    assert steps.news.wait(PATIENCE)
    assert steps.heard == []
    while not steps.heard:  # the events of a step come before those of the next one
        steps.background.pump()
    assert steps.heard == ["server"]
    steps.go_on["database"].set()
    steps.background.settle()
    assert steps.heard == ["server", "database"]
    assert not steps.background.is_running
    assert steps.threads == {threading.get_ident()}
    steps.run.clean_up()
    assert steps.undone == ["database", "server"]


def test_steps_are_added_to_a_phase_that_runs() -> None:
    """An added step does not wait for the end of the phase, only for what it needs."""
    steps = Steps({"slow": (), "quick": (), "after": ("slow", "quick")})
    steps.begin("slow")
    assert steps.begun["slow"].wait(PATIENCE)
    steps.begin("after")
    assert steps.begun["quick"].wait(PATIENCE)
    steps.begin("quick")  # once more: nothing happens
    steps.go_on["quick"].set()
    steps.go_on["slow"].set()
    assert steps.begun["after"].wait(PATIENCE)
    steps.go_on["after"].set()
    steps.background.settle()
    assert sorted(steps.heard) == ["after", "quick", "slow"]
    steps.begin("after")  # it has ended
    steps.background.settle()
    steps.run.clean_up()
    assert steps.undone[0] == "after"


def test_none_is_lost_when_the_phase_is_about_to_end() -> None:
    """Steps that are added at any moment run once each."""
    names = [f"s{number}" for number in range(300)]
    steps = Steps(dict.fromkeys(names, ()))
    for event in steps.go_on.values():
        event.set()
    for name in names:
        steps.begin(name)
        if random.random() < 0.3:
            steps.background.pump()
    steps.background.settle()
    assert sorted(steps.heard) == sorted(names)
    steps.run.clean_up()
    assert sorted(steps.undone) == sorted(names)


@pytest.mark.parametrize("at_once", [False, True])
def test_it_can_be_ended(*, at_once: bool) -> None:
    """No further step begins, running ones end or are stopped, and the plan has not failed."""
    steps = Steps({"first": (), "second": ("first",)}, jobs=1)
    steps.begin("second")
    assert steps.begun["first"].wait(PATIENCE)
    steps.run.end_provisioning("the session ends", at_once=at_once)
    if not at_once:
        steps.go_on["first"].set()
    threading.Timer(1.5, steps.go_on["first"].set).start()  # a hook that waits in C code ends then
    steps.background.settle()
    reason: list[str] = []
    listen(steps.plan, lambda event: reason.append(getattr(event, "reason", "")))
    steps.run.clean_up()
    first, second = steps.run.result().steps.values()
    assert first.outcome is (StepOutcome.CANCELLED if at_once else StepOutcome.SUCCEEDED)
    assert second.outcome is (StepOutcome.CANCELLED if at_once else StepOutcome.BLOCKED)
    assert second.reason == "the session ends"
    assert steps.run.result().outcome is StepOutcome.SUCCEEDED
    assert "success" in reason


def test_an_error_of_the_thread_is_raised_on_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken journal, for example, is raised by `settle`, and cleanup still runs."""
    steps = Steps({"only": ()})
    steps.go_on["only"].set()

    def flush() -> None:
        raise JournalError("the disk is full")

    monkeypatch.setattr(steps.run.journal, "flush", flush)
    steps.begin("only")
    with pytest.raises(JournalError, match="disk is full"):
        steps.background.settle()
    monkeypatch.undo()
    steps.run.clean_up()
    assert steps.undone == ["only"]


def test_the_sorter_sorts_as_that_of_python() -> None:
    """Random graphs, added in pieces, come out in an order that graphlib allows."""
    chance = random.Random(5)
    for _ in range(200):
        names = [str(number) for number in range(chance.randint(0, 12))]
        graph = {
            name: chance.sample(names[:number], chance.randint(0, min(3, number)))
            for number, name in enumerate(names)
        }
        sorter, reference = GrowingSorter(), TopologicalSorter(graph)
        reference.prepare()
        rest = dict(graph)
        out: list[str] = []
        ready: list[str] = []
        while rest or sorter.is_active():
            if rest and chance.random() < 0.5:
                piece = list(rest)[: chance.randint(1, 4)]
                sorter.add({name: rest.pop(name) for name in piece})
            ready += sorter.get_ready()
            if ready:
                sorter.done(ready[0])
                out.append(ready.pop(0))
        assert sorted(out) == sorted(graph)
        for name in out:
            assert all(out.index(edge) < out.index(name) for edge in graph[name])
