"""One wave: tests that are given out together, by a scheduler of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pytest_plan.plugin.compat.xdist_internals import note_collection, put_back
from pytest_plan.plugin.xdist.scheduling.workers import Proxy, Worker


class Wave:
    """Tests that are given out together.

    Args:
        inner: the scheduler of these tests, of the kind that the user has chosen.
        each: whether every worker runs every test.
        is_last: a function that returns whether a worker gets no further test of any wave.

    Attributes:
        proxies: how `inner` sees the workers that have joined, by node.
    """

    def __init__(self, inner: Any, *, each: bool, is_last: Callable[[Worker], bool]) -> None:
        self.inner = inner
        self.proxies: dict[Any, Proxy] = {}
        self._each = each
        self._is_last = is_last
        self._indices: Sequence[int] = ()  # without `each`: the tests, in every collection
        # With `each`: the tests of each dead worker that has left some of them to a replacement.
        self._owed: dict[Any, Sequence[int]] = {}

    @property
    def is_through(self) -> bool:
        """Whether no worker needs further tests of this wave."""
        is_complete = bool(self.inner.collection_is_completed) and not self._owed
        return is_complete and bool(self.inner.tests_finished)

    @property
    def is_over(self) -> bool:
        """Whether all its tests have ended."""
        return self.is_through and not self.inner.has_pending

    def begin(self, members: Sequence[tuple[Worker, Sequence[int]]]) -> None:
        """Give out the tests; `members` are the workers, and the tests of each."""
        self.inner.numnodes = len(members)
        for worker, self._indices in members:
            self._join(worker, self._indices)
        self.inner.schedule()

    def join(self, worker: Worker) -> None:
        """Let a worker join that has collected now; not with `each`."""
        self._join(worker, self._indices)

    def replace(self, node: Any, worker: Worker) -> None:
        """With `each`, let a worker run the tests that a dead one has left."""
        if node in self._owed:
            self._join(worker, self._owed.pop(node))

    def owes(self, node: Any) -> bool:
        """With `each`, return whether a dead worker has left tests."""
        return node in self._owed

    def remove(self, node: Any, running: int | None) -> str | None:
        """Remove a worker that has ended; return the test that it was running if that is of this.

        Args:
            node: the worker.
            running: the test that it was running; None if there is none.
        """
        proxy = self.proxies.pop(node, None)
        if proxy is None or proxy not in self.inner.nodes:
            return None
        left = proxy.left
        lost: str | None = self.inner.remove_node(proxy)
        if lost is None:
            return None
        # A scheduler takes the first test that it has given to the worker for the running one.
        is_running = running is not None and proxy.owns(running)
        if not is_running:
            put_back(self.inner, proxy, lost)
        if self._each and left > is_running:
            self._owed[node] = proxy.indices
        return lost if is_running else None

    def has(self, item: str) -> bool:
        """Return whether a test, by its node id, is of this wave."""
        return item in (getattr(self.inner, "collection", None) or ())

    def flush(self) -> None:
        """Let the workers run the tests that they hold back."""
        for proxy in self.proxies.values():
            proxy.shutdown()

    def _join(self, worker: Worker, indices: Sequence[int]) -> None:
        assert worker.collection is not None
        proxy = self.proxies[worker.node] = Proxy(worker, self.inner, indices, self._is_last)
        worker.proxies.append(proxy)
        own = [worker.collection[index] for index in indices]
        self.inner.add_node(proxy)
        self.inner.add_node_collection(proxy, own)
        if self._each:
            note_collection(self.inner, proxy, own)
