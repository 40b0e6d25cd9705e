"""What a run tells its journal; here there is none, and everything is let pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_plan.engine.definition.planned import PlannedStep
    from pytest_plan.engine.model.errors import JournalError
    from pytest_plan.engine.model.outcomes import CleanupOutcome, Hook, StepOutcome


class Deferred(NamedTuple):
    """A call to make at cleanup."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


class NullJournal:
    """A run without a journal.

    Methods that are *durable* in a journal return when what they note is on the disk, and raise
    JournalError when it cannot be written; the others note, and it is written soon.
    """

    @property
    def failure(self) -> JournalError | None:
        """Why nothing can be written any more; None while it can."""
        return None

    def flush(self) -> None:
        """Return when all that was noted is on the disk."""

    def before(self, step: PlannedStep) -> Callable[[], None] | None:
        """Return what must be called before user code of the step; None: nothing."""
        return None

    def mask_with(self, mask: Callable[[str], str]) -> None:
        """Let nothing be written that `mask`, which replaces secrets, would change."""

    def step_begun(self, step: PlannedStep) -> None:
        """Note, durably, that user code of the step may run from now on."""

    def ends_durably(self, step: PlannedStep) -> bool:
        """Whether `step_ended` waits for the disk."""
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
        """Record how the step ended; durably if its `cleanup` hook takes its value or the State."""

    def cleanup_begun(self, step: str) -> None:
        """Note, durably if that can be, that the step is being cleaned up."""

    def cleanup_ended(self, step: str, outcome: CleanupOutcome, *, hook_is_done: bool) -> None:
        """Note how the cleanup of the step ended, and whether its hook has succeeded by now."""

    def hook_done(self, step: str) -> None:
        """Note that the `cleanup` hook has succeeded, when more is to be taken back."""

    def deferred(self, step: str, hook: Hook, label: str, call: Deferred) -> int | None:
        """Note a deferred call, durably; return its number."""
        return None

    def tree_planned(self, step: str, hook: Hook, label: str, how: Mapping[str, Any]) -> int | None:
        """Note a process tree that is about to start, durably; return its number."""
        return None

    def tree_started(self, number: int | None, pid: int) -> None:
        """Note the first process of a tree."""

    def tail_made(self, step: str) -> int | None:
        """Note that a generator has yielded: its tail lives in this process alone."""
        return None

    def undone(self, number: int | None) -> None:
        """Note that something has been taken back."""

    def variable_set(self, step: str, hook: Hook, name: str, value: str) -> int | None:
        """Note an environment variable; return its number."""
        return None

    def scratch(self, folder: Path) -> None:
        """Note, durably, the folder that the run makes."""

    def lasting(self, value: Any) -> Any:
        """Return what `state_set` will need of a value, as the value is now."""
        return None

    def state_set(self, key: str, lasting: Any) -> None:
        """Note a value of the State."""

    def state_removed(self, key: str) -> None:
        """Note that a key is gone."""

    def close(self) -> None:
        """Write what is noted, and let go."""
