"""The journal's interface, and the null implementation for runs without a journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_plan.engine.definition.planned import PlannedStep
    from pytest_plan.engine.model.errors import JournalError
    from pytest_plan.engine.model.outcomes import CleanupOutcome, Hook, StepOutcome


class Deferred(NamedTuple):
    """A deferred call, which cleanup makes."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


class NullJournal:
    """The interface of a journal. Here every method does nothing.

    In a `Journal`, methods that record something *durably* return once it is on the disk, and raise
    `JournalError` if it cannot be written. The other methods only queue it to be written soon.
    """

    @property
    def failure(self) -> JournalError | None:
        """The error after which nothing more is written; None while the journal works."""
        return None

    def flush(self) -> None:
        """Return once everything recorded so far is on the disk."""

    def before(self, step: PlannedStep) -> Callable[[], None] | None:
        """Return a function to call before the step's first user code; None if there is none."""
        return None

    def mask_with(self, mask: Callable[[str], str]) -> None:
        """Never write text that `mask`, which replaces secrets, would change."""

    def step_begun(self, step: PlannedStep) -> None:
        """Record durably that user code of the step may run from now on."""

    def ends_durably(self, step: PlannedStep) -> bool:
        """Whether `step_ended` is durable for this step."""
        return False

    def step_ended(
        self,
        step: PlannedStep,
        outcome: StepOutcome,
        completed: int,
        log_tail: str,
        *,
        has_begun: bool,
    ) -> None:
        """Record how the step ended, durably if its `cleanup` hook takes its value or the State."""

    def cleanup_begun(self, step: str) -> None:
        """Record durably that cleanup of the step begins; errors are ignored."""

    def cleanup_ended(self, step: str, outcome: CleanupOutcome, *, hook_is_done: bool) -> None:
        """Record how the cleanup of the step ended, and whether its `cleanup` hook succeeded."""

    def hook_done(self, step: str) -> None:
        """Record that the `cleanup` hook succeeded while other undos of the step remain."""

    def deferred(self, step: str, hook: Hook, label: str, call: Deferred) -> int | None:
        """Record a deferred call durably, and return its number; None without a journal."""
        return None

    def tree_planned(self, step: str, hook: Hook, label: str, how: Mapping[str, Any]) -> int | None:
        """Record durably that a process tree is about to start, and return its number.

        None means that there is no journal.
        """
        return None

    def tree_started(self, number: int | None, pid: int) -> None:
        """Record durably the first process of the tree with this number."""

    def tail_made(self, step: str) -> int | None:
        """Record that a generator has yielded, and return the number of its tail.

        Only this process can run the tail. None means that there is no journal.
        """
        return None

    def undone(self, number: int | None) -> None:
        """Record that the entry with this number has been undone; None is ignored."""

    def variable_set(self, step: str, hook: Hook, name: str, value: str) -> int | None:
        """Record durably an environment variable, and return its number; None without a journal."""
        return None

    def scratch(self, folder: Path) -> None:
        """Record durably the temporary folder that the run creates."""

    def lasting(self, value: Any) -> Any:
        """Return a snapshot of a value for `state_set`."""
        return None

    def state_set(self, key: str, lasting: Any) -> None:
        """Record the value of a key of the State, from its snapshot by `lasting`."""

    def state_removed(self, key: str) -> None:
        """Record that a key was removed from the State."""

    def close(self) -> None:
        """Write everything recorded so far, and close the journal."""
