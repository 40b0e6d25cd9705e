"""A forward phase to which steps can be added while it runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from pytest_plan.engine.execution.phases import Forward, RunStatus


class GrowingSorter:
    """Sorts nodes as `graphlib.TopologicalSorter` does, and also takes nodes after it has begun."""

    def __init__(self) -> None:
        self._left: set[str] = set()  # the nodes that are not done
        self._waits: dict[str, set[str]] = {}  # the nodes for which a node waits
        self._followers: dict[str, list[str]] = {}
        self._ready: list[str] = []

    def add(self, graph: Mapping[str, Iterable[str]]) -> None:
        """Add new nodes, each with the nodes that come before it.

        Nodes that are done, and those that the sorter does not have, hold no other node back.
        """
        self._left.update(graph)
        for name, edges in graph.items():
            before = {edge for edge in edges if edge in self._left}
            self._waits[name] = before
            for edge in before:
                self._followers.setdefault(edge, []).append(name)
            if not before:
                self._ready.append(name)

    def is_active(self) -> bool:
        """Return whether any node is not done."""
        return bool(self._left)

    def get_ready(self) -> tuple[str, ...]:
        """Return the nodes that have become ready since the last call."""
        ready, self._ready = tuple(self._ready), []
        return ready

    def done(self, name: str) -> None:
        """Note that a node is done."""
        self._left.remove(name)
        for follower in self._followers.pop(name, ()):
            self._waits[follower].remove(name)
            if not self._waits[follower]:
                self._ready.append(follower)


class GrowingForward(Forward):
    """Provisions steps, and those that are added while it does."""

    def __init__(self, status: RunStatus, names: Sequence[str]) -> None:
        super().__init__(status, ())
        self.sorter: GrowingSorter = GrowingSorter()
        self.add(names)

    def add(self, names: Collection[str]) -> None:
        """Add steps. Those that have ended, or that the phase already has, are left out."""
        new = [
            name
            for name in names
            if name not in self._ranks and not self._step_runs[name].has_ended
        ]
        self._ranks.update((name, len(self._ranks) + number) for number, name in enumerate(new))
        self.sorter.add({name: self._step_runs[name].planned.edges for name in new})
