"""Simulated workers and a simulated controller, which use a scheduling as pytest-xdist does."""

from __future__ import annotations

import collections
import random
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import (  # type: ignore[import-untyped]
    EachScheduling,
    LoadFileScheduling,
    LoadScheduling,
    LoadScopeScheduling,
    WorkStealingScheduling,
)

from pytest_plan.plugin.xdist.scheduling.scheduling import NewStage, WaveScheduling, in_waves

KINDS: dict[str, Any] = {
    "load": LoadScheduling,
    "worksteal": WorkStealingScheduling,
    "loadscope": LoadScopeScheduling,
    "loadfile": LoadFileScheduling,
    "each": EachScheduling,
}
_SHUTDOWN = -1


class SimulatedTest(NamedTuple):
    """A test of a simulation."""

    rank: int
    is_alone: bool
    module: int
    needs: tuple[str, ...]
    dies: bool = False

    def id(self, number: int) -> str:
        """Return its node id."""
        return f"test_{self.module}.py::test_{number}"


class SimulatedNode:
    """A worker, as the controller sees it; it runs a test only when it knows the next item."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name, spec="popen")
        self.commands: collections.deque[tuple[str, Any]] = collections.deque()
        self.queue: list[int] = []
        self.held: int | None = None
        self.shutting_down = False
        self.is_up = True

    def __repr__(self) -> str:
        return str(self.gateway.id)

    def send_runtest_some(self, indices: Sequence[int]) -> None:
        """Queue some tests."""
        self.commands.append(("run", list(indices)))

    def send_runtest_all(self) -> None:
        """Waves must not use it, because it would include the boundary."""
        raise AssertionError

    def send_steal(self, indices: Sequence[int]) -> None:
        """Ask for tests back."""
        self.commands.append(("steal", list(indices)))

    def shutdown(self) -> None:
        """Queue the end."""
        self.shutting_down = True
        self.commands.append(("run", [_SHUTDOWN]))


class Simulation:
    """A run of tests in simulated workers, with events in a random order.

    Args:
        kind: a mode of xdist.
        workers: the number of workers.
        tests: the tests, in any order.
        steps: the rank of each step.
        chance: decides what happens next.
    """

    def __init__(
        self,
        kind: str,
        workers: int,
        tests: Sequence[SimulatedTest],
        steps: dict[str, int],
        chance: random.Random,
    ) -> None:
        numbered = sorted(enumerate(tests), key=lambda one: (one[1].rank, one[1].is_alone))
        self.tests = [test for _, test in numbered]
        self.ids = [test.id(number) for number, test in numbered]
        self.steps, self.ended, self.opened = steps, set[str](), set[int]()
        self.chance, self.each = chance, kind == "each"
        self.workers = workers
        self.ran: collections.Counter[str] = collections.Counter()
        self.died: set[str] = set()
        self.violations: list[str] = []
        self._running: dict[SimulatedNode, int] = {}
        self._names = iter(f"gw{number}" for number in range(10_000))
        options = {"tx": ["popen"] * workers, "maxschedchunk": None}
        option = SimpleNamespace(loadscopereorder=True)
        config = SimpleNamespace(getvalue=options.get, getoption=options.get, option=option)
        log = Producer("simulation", enabled=False)
        make = partial(KINDS[kind], config, log)
        self.scheduling: WaveScheduling = in_waves(make(), make, each=self.each)
        self.scheduling.is_ready = lambda needs: self.ended.issuperset(needs)
        self.scheduling.has_ended = lambda: self.ended.issuperset(self._due())
        self.scheduling.begin = self._begin
        self.nodes: list[SimulatedNode] = []
        self.waiting: list[SimulatedNode] = []  # they have not collected yet
        self.is_shutting_down = False
        ranks = sorted({test.rank for test in self.tests})
        self.opened.update(range(ranks[0] + 1))
        for _ in range(workers):
            self._add_node()
        for node in list(self.waiting):
            self._collect(node)
        self._look()

    def run(self) -> None:
        """Let everything happen; fail if nothing can happen although tests are left."""
        for _ in range(100_000):
            actions = self._actions()
            if not actions:
                break
            self.chance.choice(actions)()
            if self.scheduling.tests_finished and not self.is_shutting_down:
                self.is_shutting_down = True
                for node in self.scheduling.nodes:
                    node.shutdown()

    def _actions(self) -> list[Any]:
        found: list[Any] = [partial(self._collect, node) for node in self.waiting]
        found += [partial(self._end, step) for step in self._due() if step not in self.ended]
        for node in self.nodes:
            if not node.is_up or node in self.waiting:
                continue
            if node.commands:
                found += [partial(self._receive, node)] * 3
            if node.held is not None and node.held == _SHUTDOWN:
                found.append(partial(self._finish, node))
            elif (node.held is None and node.queue) or (node.held is not None and node.queue):
                found += [partial(self._step, node)] * 3
        return found

    def _due(self) -> list[str]:
        return [step for step, rank in self.steps.items() if rank in self.opened]

    def _begin(self, stage: NewStage) -> None:
        left = [
            one
            for one, test in zip(self.ids, self.tests, strict=True)
            if test.rank < stage.rank and not self.ran[one]
        ]
        self.violations += [f"stage {stage.rank} began before {one} ran" for one in left]
        self.opened.update(range(stage.rank + 1))

    def _end(self, step: str) -> None:
        self.ended.add(step)
        self._look()

    def _look(self) -> None:
        self.scheduling.look()

    def _add_node(self) -> None:
        node = SimulatedNode(next(self._names))
        self.nodes.append(node)
        self.waiting.append(node)
        self.scheduling.add_node(node)

    def _collect(self, node: SimulatedNode) -> None:
        self.waiting.remove(node)
        if self.is_shutting_down:
            return
        counts: collections.Counter[tuple[int, bool]] = collections.Counter(
            (test.rank, test.is_alone) for test in self.tests
        )
        waves = [(*key, counts[key]) for key in sorted(counts)]
        self.scheduling.announce(node, waves, [test.needs for test in self.tests])
        self.scheduling.add_node_collection(node, self.ids)
        if self.scheduling.collection_is_completed:
            self.scheduling.schedule()

    def _receive(self, node: SimulatedNode) -> None:
        what, indices = node.commands.popleft()
        if what == "run":
            node.queue += indices
            return
        queued = [index for index in node.queue if index in indices]
        stolen = queued if len(queued) == len(indices) else []
        node.queue = [index for index in node.queue if index not in stolen]
        self.scheduling.remove_pending_tests_from_node(node, stolen)

    def _step(self, node: SimulatedNode) -> None:
        """Take the next item, or run the one that is held: it begins, and then ends or dies."""
        if node.held is None:
            node.held = node.queue.pop(0)
            return
        index, test = node.held, None
        if index < len(self.tests):
            test = self.tests[index]
        if test is not None and node not in self._running:
            self._check(node, index)
            self._running[node] = index
            return
        if test is not None:
            del self._running[node]
            if test.dies and self.ids[index] not in self.died:
                self._die(node, index)
                return
            self.ran[self.ids[index]] += 1
        node.held = node.queue.pop(0)
        self.scheduling.mark_test_complete(node, index, self.chance.choice([0.0, 0.2]))

    def _check(self, node: SimulatedNode, index: int) -> None:
        test = self.tests[index]
        if not self.ended.issuperset(test.needs):
            self.violations.append(f"{self.ids[index]} began before its steps had ended")
        others = [self.tests[other] for other in self._running.values()]
        if not self.each and any(one.is_alone or test.is_alone for one in others):
            self.violations.append(f"{self.ids[index]} did not run alone")

    def _die(self, node: SimulatedNode, index: int) -> None:
        self.died.add(self.ids[index])
        self.ran[self.ids[index]] += 1
        node.is_up = False
        crashed = self.scheduling.remove_node(node)
        if crashed != self.ids[index]:
            self.violations.append(f"{crashed} was named, not {self.ids[index]}")
        self.is_shutting_down = False
        self._add_node()

    def _finish(self, node: SimulatedNode) -> None:
        node.is_up = False
        if node in self.scheduling.nodes:
            crashed = self.scheduling.remove_node(node)
            if crashed is not None:
                self.violations.append(f"{crashed} was lost when {node} ended")
