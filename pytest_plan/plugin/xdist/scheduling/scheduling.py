"""Gives tests to workers wave by wave, each with a scheduler of pytest-xdist of its own kind.

The tests are in *parts*: a part opens when all tests of the parts before have ended, as stages do.
The tests of a part are given out in *waves*, which are open side by side: the tests that have
become ready since the last wave form the next one. If no test waits for a step that is being
provisioned, a part has one wave.

A worker runs a test only when it knows the next one, so it would hold the last test of a wave back.
When a wave ends, each worker is therefore given the boundary, an item that it has after its tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pytest

from pytest_plan.plugin.xdist.scheduling.wave import Wave
from pytest_plan.plugin.xdist.scheduling.workers import Key, Pool, Worker, needs_of_all

_PROTOCOL = (
    "nodes collection_is_completed tests_finished has_pending add_node add_node_collection "
    "mark_test_complete mark_test_pending remove_pending_tests_from_node remove_node schedule "
    "numnodes"
).split()


def is_usable(scheduler: object) -> bool:
    """Return whether a scheduler has the protocol of pytest-xdist, so that waves can use it."""
    return all(hasattr(scheduler, name) for name in _PROTOCOL)


def in_waves(first: Any, make: Callable[[], Any], *, each: bool) -> WaveScheduling:
    """Return a scheduling that passes everything on to `first` unless there are waves.

    Its class has the name of the class of `first`, which pytest-xdist prints.

    Args:
        first: the scheduler that the user has chosen.
        make: a function that returns another scheduler of the same kind.
        each: whether every worker runs every test.
    """
    kind: type[WaveScheduling] = type(type(first).__name__, (WaveScheduling,), {})
    return kind(first, make, each=each)


class NewStage(NamedTuple):
    """A stage that is about to open.

    Attributes:
        rank: its rank.
        ranks: the ranks of all stages that have tests, in order.
        ended: the number of tests that have ended before.
    """

    rank: int
    ranks: Sequence[int]
    ended: int


class WaveScheduling:
    """A scheduling for pytest-xdist that has one scheduler for each wave of tests.

    While there are no waves, `inner` is the user's scheduler and gets every call unchanged.

    Args:
        first: the user's scheduler.
        make: a function that returns another scheduler of the same kind.
        each: whether every worker runs every test.

    Attributes:
        inner: the scheduler of the wave that has opened last.
        begin: a function that provisions what the tests of a stage need; no test runs meanwhile.
        is_gone: a function that returns whether the process of a worker has ended.
        is_ready: a function that returns whether all of these steps have ended, so that tests that
            need them can be given out; None if no test is held back.
        has_ended: a function that returns whether all steps of the open stage have ended.
        entered: a function to call when a part opens, with the number of tests that are ready and
            that of all its tests.
    """

    def __init__(self, first: Any, make: Callable[[], Any], *, each: bool) -> None:
        self.inner = first
        self.begin: Callable[[NewStage], None] = lambda stage: None
        self.is_gone: Callable[[Any], bool] = lambda node: False
        self.is_ready: Callable[[Sequence[str]], bool] | None = None
        self.has_ended: Callable[[], bool] = lambda: True
        self.entered: Callable[[int, int], None] = lambda ready, tests: None
        self._make = make
        self._each = each
        self._has_started = False
        self._workers: dict[Any, Worker] = {}  # those that xdist has added and not removed
        self._parts: list[Key] = []  # all parts; empty while there are no waves
        self._part = 0
        self._is_entered = False  # whether the tests of the open part can be given out
        self._waves: list[Wave] = []  # those of the open part, without those that are over
        self._pools: list[Pool] = []  # those of the open part
        self._left: list[Worker] = []  # with `each`: the dead that have left tests
        self._expected = 0  # with `each`: how many workers run all tests
        self._missing = 0  # with `each`: how many of them have no part in the open part yet
        self._differ = False  # whether the workers have collected different tests
        self._ended = 0

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # it is not set yet, as in a copy
            raise AttributeError(name)
        return getattr(self.inner, name)

    def announce(
        self,
        node: Any,
        waves: Iterable[tuple[int, bool, int]],
        needs: Sequence[Sequence[str]] = (),
    ) -> None:
        """Note what is known about the tests of a worker that has collected.

        Args:
            node: the worker.
            waves: the rank of each part, whether its tests run alone, and how many they are.
            needs: the steps for which each test waits; empty if none waits.
        """
        worker = self._workers.setdefault(node, Worker(node))
        worker.counts = {Key(rank, alone): tests for rank, alone, tests in waves}
        worker.needs = needs

    def first_rank(self) -> int | None:
        """Return the lowest rank of all tests that are known; None if none is."""
        counts = (worker.counts for worker in self._workers.values())
        return min((key.rank for keys in counts for key in keys), default=None)

    @property
    def numnodes(self) -> int:
        """The number of workers that must have collected before the tests begin."""
        return len(self._workers) if self._parts else int(self.inner.numnodes)

    @property
    def nodes(self) -> list[Any]:
        """All workers that may get tests."""
        return list(self._workers) if self._parts else list(self.inner.nodes)

    @property
    def collection_is_completed(self) -> bool:
        """Whether enough workers have collected, so that the tests can begin or have begun."""
        return bool(self._parts) or bool(self.inner.collection_is_completed)

    @property
    def tests_finished(self) -> bool:
        """Whether no worker needs further tests."""
        if not self._parts:
            return bool(self.inner.tests_finished)
        return self._is_given_out and all(wave.is_through for wave in self._waves)

    @property
    def has_pending(self) -> bool:
        """Whether tests are left, or run."""
        if not self._parts:
            return bool(self.inner.has_pending)
        return not self._is_given_out or any(wave.inner.has_pending for wave in self._waves)

    @property
    def is_over(self) -> bool:
        """Whether all tests have ended."""
        return bool(self.tests_finished) and not self.has_pending

    def add_node(self, node: Any) -> None:
        """Add a worker that has not collected yet."""
        self._workers.setdefault(node, Worker(node))
        if not self._parts:
            self.inner.add_node(node)

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        """Add the tests of a worker; in waves, it joins the open part if that has tests for it."""
        self._workers[node].collection = list(collection)
        if not self._parts:
            self.inner.add_node_collection(node, collection)
        elif self._is_entered:
            self._join(self._workers[node])

    def schedule(self) -> None:
        """Give out tests: the first time, once all workers have collected; then, if one joins."""
        if not self._has_started:
            self._has_started = True
            self._find_parts()
        if not self._parts:
            self.inner.schedule()
            if self._differ and self.inner.has_pending:
                raise pytest.UsageError(
                    "the workers have collected different tests, and tests that wait for other "
                    "tests need workers that collect the same ones"
                )
            return
        for wave in self._waves:
            wave.inner.schedule()
        self.advance()

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        """Note that a worker has run a test, or the boundary."""
        worker = self._workers.get(node)
        if worker is not None and worker.counts and item_index >= len(worker.collection or ()):
            return  # the boundary
        if not self._parts:
            self.inner.mark_test_complete(node, item_index, duration)
            return
        assert worker is not None
        proxy = worker.take(item_index)
        self._ended += 1
        proxy.inner.mark_test_complete(proxy, proxy.local(item_index), duration)
        self.advance()

    def mark_test_pending(self, item: str) -> None:
        """Let a test run once more, as a plugin wants that has seen its worker crash."""
        inner = next((wave.inner for wave in self._waves if wave.has(item)), self.inner)
        inner.mark_test_pending(item)

    def remove_pending_tests_from_node(self, node: Any, indices: Sequence[int]) -> None:
        """Note which tests a worker has given back."""
        if not self._parts:
            self.inner.remove_pending_tests_from_node(node, indices)
            return
        worker = self._workers[node]
        proxy = worker.asked.popleft()
        given_back = [worker.take(index).local(index) for index in indices]
        proxy.inner.remove_pending_tests_from_node(proxy, given_back)
        self.advance()

    def remove_node(self, node: Any) -> str | None:
        """Remove a worker that has ended; return the test that it was running, if any.

        Raises:
            KeyError: the worker is unknown.
        """
        worker = self._workers.pop(node, None)
        if not self._parts:
            crashed: str | None = self.inner.remove_node(node)
            return crashed
        if worker is None:
            raise KeyError(node)
        running = worker.queue[0] if worker.queue else None
        found = [wave.remove(node, running) for wave in self._waves]
        has_left = worker.pool is not None and bool(worker.pool.waiting)
        if self._each and (has_left or any(wave.owes(node) for wave in self._waves)):
            self._left.append(worker)
        crashed = next((item for item in found if item is not None), None)
        if crashed is None:
            self.advance()
            return None
        self._ended += 1
        # A plugin may now let the test run once more, so the next part does not begin yet.
        self._flush()
        return crashed

    def look(self) -> None:
        """Find out which tests have become ready, and give them out if a worker would idle."""
        for pool in self._pools:
            pool.look(self.is_ready)
        if self._parts:
            self.advance()

    def advance(self) -> None:
        """Open the next wave if a worker would idle; the next part if all tests have ended."""
        while True:
            self._flush()
            if not self._is_entered:
                self._enter()
            self._open_wave()
            self._flush()
            if not self._is_part_over or self._is_last:
                return
            if all(node.shutting_down for node in self._workers):
                return
            rank = self._parts[self._part].rank
            self._part += 1
            self._is_entered = False
            if (key := self._parts[self._part]).rank > rank:
                ranks = sorted({key.rank for key in self._parts})
                self.begin(NewStage(key.rank, ranks, self._ended))

    @property
    def _is_last(self) -> bool:
        return self._part == len(self._parts) - 1

    @property
    def _is_given_out(self) -> bool:
        """Whether every test of every part is in a wave."""
        return self._is_last and self._is_part_given_out

    @property
    def _is_part_given_out(self) -> bool:
        is_complete = self._is_entered and not self._missing
        return is_complete and not any(pool.waiting for pool in self._pools)

    @property
    def _is_part_over(self) -> bool:
        return self._is_part_given_out and all(wave.is_over for wave in self._waves)

    def _find_parts(self) -> None:
        """Use waves if there are several, and if the workers have the same tests."""
        living = [one for one in self._workers.values() if one.collection is not None]
        parts = sorted({key for worker in living for key in worker.counts})
        is_same = all(worker.collection == living[0].collection for worker in living)
        waits = self.is_ready is not None and not self.has_ended()
        # With `each`, a single part as well: `send_runtest_all` would include the boundary.
        needs_waves = len(parts) > 1 or self._each or any(key.is_alone for key in parts) or waits
        if not (needs_waves and parts):
            return
        if is_same or self._each:
            self._expected = self.inner.numnodes if self._each else 0
            self._parts = parts
        else:  # tests that only wait for steps can wait in the workers
            self._differ = len(parts) > 1 or any(key.is_alone for key in parts)

    def _enter(self) -> None:
        """Let the workers that live share the tests of the open part; without any, wait for one."""
        key = self._parts[self._part]
        living = self._living()
        if not living or (key.is_alone and not self.has_ended()):
            return
        if key.is_alone and not self._each:
            living = living[:1]
        self._waves, self._left, self._pools = [], [], []
        self._missing = max(0, self._expected - len(living))
        for worker in self._workers.values():
            worker.proxies, worker.pool = [], None
        if not self._each:
            self._pools = [Pool(living[0].part(key), needs_of_all(living))]
        for worker in living:
            self._take_part(worker)
        self._is_entered = True
        self.entered(len(self._pools[0].ready), len(self._pools[0].waiting))

    def _take_part(self, worker: Worker) -> None:
        """Let a worker have the pool of all workers or, with `each`, one of its own."""
        if self._each:
            self._pools.append(Pool(worker.part(self._parts[self._part]), worker.needs))
        worker.pool = self._pools[-1]
        worker.pool.look(self.is_ready)

    def _living(self) -> list[Worker]:
        return [
            worker
            for node, worker in self._workers.items()
            if worker.collection is not None and not node.shutting_down and not self.is_gone(node)
        ]

    def _join(self, worker: Worker) -> None:
        """Let a worker take part in the open part that has collected only now."""
        is_alone = self._parts[self._part].is_alone and not self._each
        is_member = not is_alone or all(one.pool is None for one in self._workers.values())
        if not self._each:
            for wave in self._waves if is_member else ():
                wave.join(worker)
            worker.pool = self._pools[0] if is_member else None
        elif self._left:
            spec = worker.node.gateway.spec
            same = [dead for dead in self._left if dead.node.gateway.spec == spec]
            dead = (same or self._left)[0]
            self._left.remove(dead)
            worker.pool = dead.pool
            for wave in self._waves:
                wave.replace(dead.node, worker)
        elif self._missing:
            self._missing -= 1
            self._take_part(worker)

    def _open_wave(self) -> None:
        """Give out the tests that are ready, if a worker would idle or no further one will be."""
        if not any(pool.ready for pool in self._pools):
            return
        members = [one for one in self._workers.values() if one.pool is not None and one.pool.ready]
        is_rest = all(len(pool.ready) == len(pool.waiting) for pool in self._pools)
        if not is_rest and not any(worker.is_idle for worker in members):
            return
        living = self._living()
        # A scheduler gives tests to the first workers first, and the last ones may get none.
        members = sorted((one for one in members if one in living), key=lambda one: len(one.queue))
        if not members:
            return
        self._waves = [wave for wave in self._waves if not wave.is_over]
        self.inner = self._make()
        self._waves.append(Wave(self.inner, each=self._each, is_last=self._gets_no_more))
        pools = {id(one.pool): one.pool for one in members if one.pool is not None}
        taken = {number: pool.take() for number, pool in pools.items()}
        self._waves[-1].begin([(one, taken[id(one.pool)]) for one in members])

    def _gets_no_more(self, worker: Worker) -> bool:
        """Return whether nothing is left, in any wave, that a worker could still get."""
        has_more = worker.pool is not None and bool(worker.pool.waiting)
        return self._is_last and not has_more and worker.is_done

    def _flush(self) -> None:
        """Let workers run the tests that they hold back, as xdist does at the end of all tests."""
        through = [wave for wave in self._waves if wave.is_through]
        if self._is_given_out and len(through) == len(self._waves):
            return  # xdist does it
        for wave in through:
            wave.flush()
