"""Gives tests to workers wave by wave, each with a scheduler of pytest-xdist of its own kind.

A worker runs a test only when it knows the next one, so it would hold the last test of a wave back.
When a wave ends, each worker is therefore given the boundary, an item that it has after its tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from pytest_plan.plugin.compat.xdist_internals import note_collection

_PROTOCOL = (
    "nodes collection_is_completed tests_finished has_pending add_node add_node_collection "
    "mark_test_complete mark_test_pending remove_pending_tests_from_node remove_node schedule "
    "numnodes"
).split()

Key = tuple[int, bool]  # the rank of a wave, and whether its tests run alone


def is_usable(scheduler: object) -> bool:
    """Return whether a scheduler has the protocol of pytest-xdist, so that waves can use it."""
    return all(hasattr(scheduler, name) for name in _PROTOCOL)


def staged(first: Any, make: Callable[[], Any], *, each: bool) -> StagedScheduling:
    """Return a scheduling that passes everything on to `first` unless there are several waves.

    Its class has the name of the class of `first`, which pytest-xdist prints.

    Args:
        first: the scheduler that the user has chosen.
        make: a function that returns another scheduler of the same kind.
        each: whether every worker runs every test.
    """
    kind: type[StagedScheduling] = type(type(first).__name__, (StagedScheduling,), {})
    return kind(first, make, each=each)


class Wave(NamedTuple):
    """A wave that is about to open.

    Attributes:
        key: its rank, and whether its tests run alone.
        ranks: the ranks of all waves that have tests, in order.
        ended: the number of tests that have ended before.
    """

    key: Key
    ranks: Sequence[int]
    ended: int


class _Node:
    """A worker as the scheduler of one wave sees it; indices are those of the wave's tests.

    Args:
        node: the worker.
        start: the index of the first test of the wave.
        tests: the number of tests of the wave.
        boundary: the index of the boundary; None in the last wave.
    """

    def __init__(self, node: Any, start: int, tests: int, boundary: int | None) -> None:
        self.node = node
        self.start = start
        self._tests = tests
        self._boundary = boundary
        self._is_done = False
        self.left = 0  # tests that it was given and has not ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self.node, name)

    def __repr__(self) -> str:
        return repr(self.node)

    @property
    def shutting_down(self) -> bool:
        """Whether the worker gets no more tests of this wave."""
        return self._is_done or bool(self.node.shutting_down)

    def send_runtest_some(self, indices: Sequence[int]) -> None:
        """Give the worker some tests."""
        self.left += len(indices)
        self.node.send_runtest_some([self.start + index for index in indices])

    def send_runtest_all(self) -> None:
        """Give the worker all tests of the wave."""
        self.send_runtest_some(range(self._tests))

    def send_steal(self, indices: Sequence[int]) -> None:
        """Take tests back that the worker has not begun."""
        self.node.send_steal([self.start + index for index in indices])

    def shutdown(self) -> None:
        """Let the worker run its last test of the wave."""
        if self._is_done:
            return
        self._is_done = True
        if self._boundary is None:
            self.node.shutdown()
        elif not self.node.shutting_down:
            self.node.send_runtest_some([self._boundary])


class StagedScheduling:
    """A scheduling for pytest-xdist that has one scheduler for each wave of tests.

    While there is only one wave, `inner` is the user's scheduler and gets every call unchanged.

    Args:
        first: the user's scheduler.
        make: a function that returns another scheduler of the same kind.
        each: whether every worker runs every test.

    Attributes:
        inner: the scheduler of the wave that is open.
        begin: a function that provisions what the tests of a wave need; no test runs meanwhile.
        is_gone: a function that returns whether the process of a worker has ended.
    """

    def __init__(self, first: Any, make: Callable[[], Any], *, each: bool) -> None:
        self.inner = first
        self.begin: Callable[[Wave], None] = lambda wave: None
        self.is_gone: Callable[[Any], bool] = lambda node: False
        self._make = make
        self._each = each
        self._has_started = False
        self._counts: dict[Any, Mapping[Key, int]] = {}  # tests of each wave, by worker
        self._collections: dict[Any, list[str]] = {}
        self._waves: list[Key] = []  # all waves; empty if there is only one
        self._wave = 0
        self._is_entered = False  # whether the scheduler of the open wave has any worker
        self._workers: list[Any] = []  # those that xdist has added and not removed
        self._proxies: dict[Any, _Node] = {}  # the workers that the open wave has now
        self._differ = False  # whether the workers have collected different tests
        self._expected = 0  # with `each`: how many workers run all tests
        self._served = 0  # with `each`: how many workers have begun the open wave
        self._owed = 0  # with `each`: how many have left tests to their replacement
        self._ended = 0

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # it is not set yet, as in a copy
            raise AttributeError(name)
        return getattr(self.inner, name)

    def announce(self, node: Any, waves: Iterable[tuple[int, bool, int]]) -> None:
        """Note how many tests each wave has on a worker that has collected."""
        self._counts[node] = {(rank, alone): tests for rank, alone, tests in waves}

    def first_rank(self) -> int | None:
        """Return the lowest rank of all tests that are known; None if none is."""
        return min((rank for counts in self._counts.values() for rank, _ in counts), default=None)

    @property
    def numnodes(self) -> int:
        """The number of workers that must have collected before the tests begin."""
        return int(self.inner.numnodes) if not self._waves else len(self._workers)

    @property
    def nodes(self) -> list[Any]:
        """All workers that may get tests."""
        return list(self._workers) if self._waves else list(self.inner.nodes)

    @property
    def collection_is_completed(self) -> bool:
        """Whether enough workers have collected, so that the tests can begin or have begun."""
        return bool(self._waves) or bool(self.inner.collection_is_completed)

    @property
    def tests_finished(self) -> bool:
        """Whether no worker needs further tests."""
        return self._is_last and self._is_through() if self._waves else self.inner.tests_finished

    @property
    def has_pending(self) -> bool:
        """Whether tests are left, or run."""
        is_known = not self._waves or (self._is_last and self._is_entered)
        return bool(self.inner.has_pending) if is_known else True

    @property
    def is_over(self) -> bool:
        """Whether all tests have ended."""
        return bool(self.tests_finished) and not self.has_pending

    def add_node(self, node: Any) -> None:
        """Add a worker that has not collected yet."""
        self._workers.append(node)
        if not self._waves:
            self.inner.add_node(node)

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        """Add the tests of a worker; in waves, it joins the open wave if that has tests for it."""
        self._collections[node] = list(collection)
        if not self._waves:
            self.inner.add_node_collection(node, collection)
        elif self._is_entered and self._has_tests_for_one_more():
            self._join(node)

    def schedule(self) -> None:
        """Give out tests: the first time, once all workers have collected; then, if one joins."""
        if not self._has_started:
            self._has_started = True
            self._plan_waves()
        if not self._waves:
            self.inner.schedule()
            if self._differ and self.inner.has_pending:
                raise pytest.UsageError(
                    "the workers have collected different tests, and tests that wait for other "
                    "tests need workers that collect the same ones"
                )
            return
        if self._is_entered:
            self.inner.schedule()
        else:
            self._enter()
        self._advance()

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        """Note that a worker has run a test, or the boundary."""
        if self._counts and item_index >= len(self._collections[node]):
            return  # the boundary
        if not self._waves:
            self.inner.mark_test_complete(node, item_index, duration)
        else:
            proxy = self._proxies[node]
            proxy.left -= 1
            self._ended += 1
            self.inner.mark_test_complete(proxy, item_index - proxy.start, duration)
            self._advance()

    def mark_test_pending(self, item: str) -> None:
        """Let a test run once more, as a plugin wants that has seen its worker crash."""
        self.inner.mark_test_pending(item)

    def remove_pending_tests_from_node(self, node: Any, indices: Sequence[int]) -> None:
        """Note which tests a worker has given back."""
        if not self._waves:
            self.inner.remove_pending_tests_from_node(node, indices)
            return
        proxy = self._proxies[node]
        given_back = [index - proxy.start for index in indices]
        self.inner.remove_pending_tests_from_node(proxy, given_back)
        self._advance()

    def remove_node(self, node: Any) -> str | None:
        """Remove a worker that has ended; return the test that it was running, if any.

        Raises:
            KeyError: the worker is unknown.
        """
        if node in self._workers:
            self._workers.remove(node)
        elif self._waves:
            raise KeyError(node)
        if not self._waves:
            crashed: str | None = self.inner.remove_node(node)
            return crashed
        proxy = self._proxies.pop(node, None)
        if proxy is None or proxy not in self.inner.nodes:
            self._advance()
            return None
        return self._remove(proxy)

    def _remove(self, proxy: _Node) -> str | None:
        crashed: str | None = self.inner.remove_node(proxy)
        if crashed is None:
            self._advance()
            return None
        self._ended += 1
        if self._each and proxy.left > 1:
            self._owed += 1
        # A plugin may now let the test run once more, so the next wave does not begin yet.
        self._flush()
        return crashed

    @property
    def _is_last(self) -> bool:
        return self._wave == len(self._waves) - 1

    def _plan_waves(self) -> None:
        """Use waves if there are several, and if the workers have the same tests."""
        living = [node for node in self._workers if node in self._collections]
        waves = sorted({key for node in living for key in self._counts.get(node, {})})
        first = self._collections[living[0]] if living else []
        is_same = all(self._collections[node] == first for node in living)
        # With `each`, a single wave as well: `send_runtest_all` would include the boundary.
        needs_waves = len(waves) > 1 or self._each or any(alone for _, alone in waves)
        needs_waves = needs_waves and bool(waves)
        self._differ = needs_waves and not (is_same or self._each)
        if needs_waves and not self._differ:
            self._expected = self.inner.numnodes
            self._waves = waves

    def _is_through(self) -> bool:
        """Whether no worker needs further tests of the open wave."""
        is_complete = self._is_entered and self.inner.collection_is_completed
        is_served = not self._each or self._served >= self._expected
        return bool(is_complete and is_served and self.inner.tests_finished)

    def _has_tests_for_one_more(self) -> bool:
        """Whether a further worker may join the open wave."""
        if self._each:
            return self._owed > 0 or self._served < self._expected
        return not self._waves[self._wave][1] or not self._proxies

    def _join(self, node: Any) -> None:
        key = self._waves[self._wave]
        counts = self._counts.get(node, {})
        start = sum(tests for other, tests in counts.items() if other < key)
        tests, collection = counts.get(key, 0), self._collections[node]
        boundary = None if self._is_last else len(collection)
        proxy = self._proxies[node] = _Node(node, start, tests, boundary)
        self.inner.add_node(proxy)
        own = collection[start : start + tests]
        self.inner.add_node_collection(proxy, own)
        if self._each:
            note_collection(self.inner, proxy, own)
        if self._owed:
            self._owed -= 1
        else:
            self._served += 1

    def _enter(self) -> None:
        """Give the tests of the open wave to the workers that live; without any, wait for one."""
        ready = [node for node in self._workers if node in self._collections]
        living = [node for node in ready if not node.shutting_down and not self.is_gone(node)]
        if not living:
            return
        if self._waves[self._wave][1] and not self._each:
            living = living[:1]
        self.inner = self._make()
        self.inner.numnodes = len(living)
        self._proxies, self._served, self._owed = {}, 0, 0
        self._is_entered = True
        for node in living:
            self._join(node)
        self.inner.schedule()

    def _flush(self) -> None:
        """Let workers run the tests that they hold back, as xdist does at the end of all tests."""
        if not self._is_last and self._is_through():
            for proxy in self._proxies.values():
                proxy.shutdown()

    def _advance(self) -> None:
        """Open the next wave if all tests of this one have ended."""
        self._flush()
        while not self._is_last and self._is_through() and not self.inner.has_pending:
            if all(node.shutting_down for node in self._workers):
                return
            rank = self._waves[self._wave][0]
            self._wave += 1
            self._is_entered = False
            key = self._waves[self._wave]
            if key[0] > rank:
                ranks = sorted({rank for rank, _ in self._waves})
                self.begin(Wave(key, ranks, self._ended))
            self._enter()
            self._flush()
