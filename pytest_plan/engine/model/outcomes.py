"""The outcomes of a step and of its cleanup, and the allowed transitions between them."""

from __future__ import annotations

import enum


class StepOutcome(enum.StrEnum):
    """The status of a step: pending, running, or how it ended."""

    __module__ = "pytest_plan"

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    BLOCKED = "blocked"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    REUSED = "reused"

    @property
    def provides(self) -> bool:
        """Whether the steps and tests that need this step may run."""
        return self in _PROVIDING

    @property
    def is_failure(self) -> bool:
        """Whether the step itself failed. A step that did not run has not failed."""
        return self in _FAILING


class CleanupOutcome(enum.StrEnum):
    """The status of a step's cleanup: none, pending, or how it ended."""

    __module__ = "pytest_plan"

    NONE = "none"
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    ABANDONED = "abandoned"
    KEPT = "kept"


class Hook(enum.StrEnum):
    """The hooks of a step: the four hooks of gsd in the order they run, and `alive`."""

    PRE_EXEC = "pre_exec"
    EXEC = "exec"
    POST_EXEC = "post_exec"
    CLEANUP = "cleanup"
    ALIVE = "alive"


EXEC_HOOKS = (Hook.PRE_EXEC, Hook.EXEC, Hook.POST_EXEC)
WITH_VALUE = (Hook.POST_EXEC, Hook.CLEANUP, Hook.ALIVE)  # these can take the step's own value

_PROVIDING = frozenset({StepOutcome.SUCCEEDED, StepOutcome.REUSED})
_FAILING = frozenset({StepOutcome.FAILED, StepOutcome.TIMED_OUT})

_STEP_CHANGES = {
    StepOutcome.PENDING: frozenset(StepOutcome)
    - {StepOutcome.PENDING, StepOutcome.SUCCEEDED, StepOutcome.FAILED},
    StepOutcome.RUNNING: frozenset(
        {
            StepOutcome.SUCCEEDED,
            StepOutcome.FAILED,
            StepOutcome.SKIPPED,
            StepOutcome.CANCELLED,
            StepOutcome.TIMED_OUT,
        }
    ),
}
_CLEANUP_CHANGES = {
    CleanupOutcome.NONE: frozenset({CleanupOutcome.PENDING, CleanupOutcome.KEPT}),
    CleanupOutcome.PENDING: frozenset(CleanupOutcome) - {CleanupOutcome.PENDING},
}


def change_step(old: StepOutcome, new: StepOutcome) -> StepOutcome:
    """Return `new`; raise ValueError if a step cannot change from `old` to `new`."""
    if new not in _STEP_CHANGES.get(old, frozenset()):
        raise ValueError(f"a step that is {old.value!r} cannot become {new.value!r}")
    return new


def change_cleanup(old: CleanupOutcome, new: CleanupOutcome) -> CleanupOutcome:
    """Return `new`; raise ValueError if a cleanup cannot change from `old` to `new`."""
    if new not in _CLEANUP_CHANGES.get(old, frozenset()):
        raise ValueError(f"a cleanup that is {old.value!r} cannot become {new.value!r}")
    return new
