"""The workers of a run: what each has been given, and how the scheduler of one wave sees it."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Key(NamedTuple):
    """What orders the parts of a run: a part opens when all tests of the parts before have ended.

    Attributes:
        rank: the highest rank of the steps that the tests need.
        is_alone: whether the tests run alone, after the others of their rank.
    """

    rank: int
    is_alone: bool


class Pool:
    """The tests of the open part that no wave has yet.

    With `--dist each`, every worker has a pool of its own; otherwise, all workers share one.

    Attributes:
        waiting: the indices of the tests, in order.
        ready: those of them whose steps have ended.
    """

    def __init__(self, waiting: Sequence[int], needs: Sequence[Sequence[str]]) -> None:
        self.waiting = waiting
        self.ready: Sequence[int] = ()
        self._needs = needs

    def look(self, is_ready: Callable[[Sequence[str]], bool] | None) -> None:
        """Find the tests that are ready; None means that all are."""
        if is_ready is None or not self._needs:
            self.ready = self.waiting
            return
        known: dict[int, bool] = {}
        ready = []
        for index in self.waiting:
            needs = self._needs[index]
            if id(needs) not in known:  # tests with the same needs share one object
                known[id(needs)] = is_ready(needs)
            if known[id(needs)]:
                ready.append(index)
        self.ready = self.waiting if len(ready) == len(self.waiting) else ready

    def take(self) -> Sequence[int]:
        """Return the tests that are ready; from now on, a wave has them."""
        taken, self.ready = self.ready, ()
        left = set(taken)
        self.waiting = [index for index in self.waiting if index not in left]
        return taken


class Worker:
    """A worker, and what it has been given in all waves.

    Attributes:
        node: the worker as xdist knows it.
        collection: the tests that it has collected; None before.
        counts: how many of them each part has, in the order of the parts.
        needs: the steps that must have ended before each of them; empty if none is held back.
        pool: where its tests of the open part come from; None if it has no part in it.
        proxies: how the open waves see it.
        queue: the tests that it was given and has not ended, in order; it runs the first of them.
        asked: the proxies by which it was asked to give tests back, in order, without an answer.
    """

    def __init__(self, node: Any) -> None:
        self.node = node
        self.collection: list[str] | None = None
        self.counts: Mapping[Key, int] = {}
        self.needs: Sequence[Sequence[str]] = ()
        self.pool: Pool | None = None
        self.proxies: list[Proxy] = []
        self.queue: list[int] = []
        self.asked: collections.deque[Proxy] = collections.deque()
        self._owners: dict[int, Proxy] = {}

    @property
    def is_done(self) -> bool:
        """Whether no open wave has further tests for it."""
        return all(proxy.is_done for proxy in self.proxies)

    @property
    def is_idle(self) -> bool:
        """Whether it runs its last test, or none."""
        return len(self.queue) < 2 and self.is_done and not self.node.shutting_down

    def part(self, key: Key) -> range:
        """Return the indices of its tests in a part."""
        start = sum(tests for other, tests in self.counts.items() if other < key)
        return range(start, start + self.counts.get(key, 0))

    def give(self, proxy: Proxy, indices: Sequence[int]) -> None:
        """Give it tests of a wave."""
        self.queue += indices
        self._owners.update(dict.fromkeys(indices, proxy))
        self.node.send_runtest_some(list(indices))

    def give_boundary(self) -> None:
        """Give it the boundary, an item after all tests, so that it runs the test before."""
        assert self.collection is not None
        self.node.send_runtest_some([len(self.collection)])

    def take(self, index: int) -> Proxy:
        """Note that a test has ended, or was given back; return the proxy of its wave."""
        self.queue.remove(index)
        return self._owners[index]

    def owner(self, index: int) -> Proxy:
        """Return the proxy of the wave of a test that it was given."""
        return self._owners[index]


def needs_of_all(workers: Sequence[Worker]) -> Sequence[Sequence[str]]:
    """Return the steps for which each test waits, on whichever of these workers it runs."""
    first = workers[0].needs
    others = [worker.needs for worker in workers[1:] if worker.needs != first]
    if not others:
        return first
    known: dict[tuple[int, ...], tuple[str, ...]] = {}
    found = []
    for each in zip(first, *others, strict=True):
        key = tuple(map(id, each))
        if key not in known:
            known[key] = tuple(dict.fromkeys(name for needs in each for name in needs))
        found.append(known[key])
    return found


class Proxy:
    """A worker as the scheduler of one wave sees it; indices are those of the wave's tests.

    Args:
        worker: the worker.
        inner: the scheduler of the wave.
        indices: the wave's tests in the collection of the worker.
        is_last: a function that returns whether the worker gets no further test of any wave.
    """

    def __init__(
        self,
        worker: Worker,
        inner: Any,
        indices: Sequence[int],
        is_last: Callable[[Worker], bool],
    ) -> None:
        self.worker = worker
        self.inner = inner
        self.node = worker.node
        self.indices = indices
        self.is_done = False
        self._is_last = is_last
        self._local: Callable[[int], int]
        if isinstance(indices, range):
            self._local = indices.index
        else:
            self._local = {index: number for number, index in enumerate(indices)}.__getitem__

    def __getattr__(self, name: str) -> Any:
        return getattr(self.node, name)

    def __repr__(self) -> str:
        return repr(self.node)

    @property
    def shutting_down(self) -> bool:
        """Whether the worker gets no more tests of this wave."""
        return self.is_done or bool(self.node.shutting_down)

    @property
    def left(self) -> int:
        """The number of this wave's tests that the worker was given and has not ended."""
        return sum(self.owns(index) for index in self.worker.queue)

    def owns(self, index: int) -> bool:
        """Return whether a test that the worker was given is of this wave."""
        return self.worker.owner(index) is self

    def local(self, index: int) -> int:
        """Return the index in the wave of a test of the worker."""
        return self._local(index)

    def send_runtest_some(self, indices: Sequence[int]) -> None:
        """Give the worker some tests."""
        self.worker.give(self, [self.indices[index] for index in indices])

    def send_runtest_all(self) -> None:
        """Give the worker all tests of the wave."""
        self.worker.give(self, self.indices)

    def send_steal(self, indices: Sequence[int]) -> None:
        """Take tests back that the worker has not begun."""
        self.worker.asked.append(self)
        self.node.send_steal([self.indices[index] for index in indices])

    def shutdown(self) -> None:
        """Let the worker run its last test of the wave."""
        if self.is_done:
            return
        self.is_done = True
        if self._is_last(self.worker):
            self.node.shutdown()
        elif not self.node.shutting_down:
            self.worker.give_boundary()
