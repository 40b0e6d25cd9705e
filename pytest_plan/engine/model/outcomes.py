"""How a step and its cleanup can stand, and which change of standing is legal."""

from __future__ import annotations

import enum


class StepOutcome(enum.StrEnum):
    """How a step stands or ended."""

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
        """Whether what needs the step may run."""
        return self in _PROVIDING

    @property
    def is_failure(self) -> bool:
        """Whether the step itself went wrong (and did not merely not run)."""
        return self in _FAILING


class CleanupOutcome(enum.StrEnum):
    """How the cleanup of a step stands or ended."""

    __module__ = "pytest_plan"

    NONE = "none"
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    ABANDONED = "abandoned"
    KEPT = "kept"


class Hook(enum.StrEnum):
    """The hooks of a step: gsd's four in the order in which they run, and one for kept steps."""

    PRE_EXEC = "pre_exec"
    EXEC = "exec"
    POST_EXEC = "post_exec"
    CLEANUP = "cleanup"
    ALIVE = "alive"


EXEC_HOOKS = (Hook.PRE_EXEC, Hook.EXEC, Hook.POST_EXEC)
WITH_VALUE = (Hook.POST_EXEC, Hook.CLEANUP, Hook.ALIVE)  # may take the step's own value

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
    """Return `new`; raise ValueError when a step that is `old` cannot become it."""
    if new not in _STEP_CHANGES.get(old, frozenset()):
        raise ValueError(f"a step that is {old.value!r} cannot become {new.value!r}")
    return new


def change_cleanup(old: CleanupOutcome, new: CleanupOutcome) -> CleanupOutcome:
    """Return `new`; raise ValueError when a cleanup that is `old` cannot become it."""
    if new not in _CLEANUP_CHANGES.get(old, frozenset()):
        raise ValueError(f"a cleanup that is {old.value!r} cannot become {new.value!r}")
    return new
