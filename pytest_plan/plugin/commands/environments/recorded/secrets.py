"""Which secrets an environment knew when it was kept, as far as its journal tells."""

from __future__ import annotations

from collections.abc import Callable, Collection

from pytest_plan.engine.journal.reader import Recorded
from pytest_plan.engine.journal.seal import Key, UnknownSecrets, seal_secrets


class RecordedSecrets:
    """The secrets that the steps of a kept environment have made known: only their seals are left.

    Args:
        recorded: the content of the journal.
        key: the key that seals it.
        known: a function that returns the secrets that this process knows.
    """

    def __init__(self, recorded: Recorded, key: Key, known: Callable[[], Collection[str]]) -> None:
        self._steps = recorded.steps
        self._seals: dict[str, list[str]] = recorded.facts.get("secrets", {})
        self._seal = key.seal(recorded.facts["id"])
        self._known = known

    def are_unknown(self, step: str) -> bool:
        """Return whether a step or one that it needs knew a secret that this process does not."""
        due, needed = [step], {step}
        while due:
            more = set(self._steps[due.pop()].needs) - needed
            needed |= more
            due += more & self._steps.keys()
        seals = [one for name in needed for one in self._seals.get(name, ())]
        return bool(UnknownSecrets(seals, self._seal, self._known))

    def contain(self, text: str) -> bool:
        """Return whether a text is one of the secrets."""
        seals = {one for each in self._seals.values() for one in each}
        return not seals.isdisjoint(seal_secrets([text], self._seal))
