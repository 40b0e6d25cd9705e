"""The interface of a journal, implemented for runs that have none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_plan.engine.definition.planned import PlannedStep
    from pytest_plan.engine.model.errors import JournalError
    from pytest_plan.engine.model.outcomes import CleanupOutcome, Hook, StepOutcome


class Deferred(NamedTuple):
    """A function call that cleanup must make."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


class NullJournal:
    """The interface of a journal. In this class every method does nothing.

    In a `Journal`, a method that records something *durably* returns once the record is on the
    disk, and raises `JournalError` if it cannot be written. The other methods only queue records
    to be written soon. Without a journal, methods that return a number return None.

    Attributes:
        guard: a function to call with the name of a step before each call of its cleanup. If it
            raises a PlanError, nothing more of the cleanup is performed. None means no guard.
    """

    guard: Callable[[str], None] | None = None

    @property
    def failure(self) -> JournalError | None:
        """The error after which nothing more is written; None while the journal works."""
        return None

    def flush(self) -> None:
        """Wait until all records so far are on disk."""

    def before(self, step: PlannedStep) -> Callable[[], None] | None:
        """Return the function to call before any user code of the step runs, or None."""
        return None

    def mask_with(self, mask: Callable[[str], str]) -> None:
        """Never write text that contains a secret, which `mask` would replace."""

    def step_begun(self, step: PlannedStep) -> None:
        """Record that user code of the step may run, durably if that leaves anything to do."""

    def ends_durably(self, step: PlannedStep) -> bool:
        """Return whether `step_ended` is durable for this step."""
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
        """Record how the step ended, durably if `ends_durably(step)` is true."""

    def cleanup_begun(self, step: str) -> None:
        """Record that cleanup of the step begins; ignore errors, but not those of the guard.

        The record is durable if another process could go on with the cleanup.
        """

    def cleanup_ended(
        self, step: str, outcome: CleanupOutcome, *, hook_is_done: bool, error: str = ""
    ) -> None:
        """Record how the cleanup of the step ended, and whether its `cleanup` hook succeeded.

        `error` is its first failure on one line; "" means that it did not fail.
        """

    def hook_done(self, step: str) -> None:
        """Record that the `cleanup` hook succeeded although other undos of the step remain."""

    def deferred(self, step: str, hook: Hook, label: str, call: Deferred) -> int | None:
        """Durably record a deferred call, and return its number."""
        return None

    def tree_planned(
        self,
        step: str,
        hook: Hook,
        label: str,
        how: Mapping[str, Any],
        start: Mapping[str, Any] | None = None,
    ) -> int | None:
        """Durably record that a process tree is about to start, and return its number."""
        return None

    def tree_started(self, number: int | None, pid: int, **how: Any) -> None:
        """Durably record the first process of the tree with this number, and what has changed."""

    def tree_may_end(self, number: int | None) -> None:
        """Record that the tree with this number need not run any more."""

    def tail_made(self, step: str) -> int | None:
        """Record that a generator has yielded, and return the number of its tail.

        Only this process can run the tail.
        """
        return None

    def undone(self, number: int | None) -> None:
        """Record that the entry with this number has been undone; do nothing if it is None."""

    def variable_set(self, step: str, hook: Hook, name: str, value: str) -> int | None:
        """Durably record an environment variable, and return its number."""
        return None

    def scratch(self, folder: Path) -> None:
        """Durably record the temporary folder that the run is about to create."""

    def lasting(self, value: Any) -> Any:
        """Return a snapshot of a value for `state_set`."""
        return None

    def state_set(self, key: str, lasting: Any, writer: str | None = None) -> None:
        """Record the value of a key of the State, given a snapshot made by `lasting`.

        `writer` is the step that has written it; None means a test.
        """

    def state_removed(self, key: str) -> None:
        """Record that a key was removed from the State."""

    def close(self) -> None:
        """Write everything recorded so far, and close the journal."""
