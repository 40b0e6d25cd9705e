"""What the selected tests need, stage by stage."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from pytest_plan.engine.definition.graph import closure, ranks
from pytest_plan.engine.definition.planned import PlannedStep


class Selection:
    """The ranks of steps, and the steps that the selected tests of each rank need.

    Attributes:
        ranks: the rank of each step and each instance; empty until the tests have been collected.
        opened: the rank up to which steps may begin now; None if no step waits for tests.
    """

    def __init__(self) -> None:
        self.ranks: Mapping[str, int] = {}
        self.opened: int | None = None
        self._needs: dict[int, set[str]] | None = None  # by rank; None before collection

    @property
    def has_stages(self) -> bool:
        """Whether any step waits for tests."""
        return any(self.ranks.values())

    def rank_steps(self, steps: Mapping[str, PlannedStep]) -> None:
        """Find the ranks of all steps. All instances of a step have the same rank."""
        found = ranks(steps)
        self.ranks = {**{step.template: found[name] for name, step in steps.items()}, **found}

    def rank(self, names: Iterable[str]) -> int:
        """Return the highest rank of these steps; 0 if there are none."""
        return max((self.ranks.get(name, 0) for name in names), default=0)

    def add(self, needs: Mapping[int, Iterable[str]]) -> None:
        """Add the steps that selected tests need, by the rank of the tests."""
        self._needs = self._needs or {}
        for rank, names in needs.items():
            self._needs.setdefault(rank, set()).update(names)

    def stage(self, rank: int | None) -> int:
        """Return the number of the stage in which steps of a rank begin, counted from 1.

        Only stages that have tests count.
        """
        return 1 + sum(other < (rank or 0) for other in self._needs or ())

    def is_due(self, name: str) -> bool:
        """Return whether a step may begin now."""
        return self.opened is None or self.ranks.get(name, 0) <= self.opened

    def uses_before(self, name: str, steps: Mapping[str, PlannedStep]) -> bool:
        """Return whether tests that run before a step may use steps that it waits for.

        Before collection this is unknown, and so may be the case.
        """
        if self._needs is None:
            return True
        used: Collection[str] = closure([name], steps)
        earlier = (needs for rank, needs in self._needs.items() if rank < self.ranks.get(name, 0))
        return any(not needs.isdisjoint(used) for needs in earlier)
