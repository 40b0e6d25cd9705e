"""The outcomes of steps and cleanups, and the allowed transitions."""

from __future__ import annotations

import itertools

import pytest

from pytest_plan.engine.model.outcomes import (
    CleanupOutcome,
    StepOutcome,
    change_cleanup,
    change_step,
)

S, C = StepOutcome, CleanupOutcome

LEGAL_STEP = {
    S.PENDING: {S.RUNNING, S.BLOCKED, S.SKIPPED, S.CANCELLED, S.TIMED_OUT, S.REUSED},
    S.RUNNING: {S.SUCCEEDED, S.FAILED, S.SKIPPED, S.CANCELLED, S.TIMED_OUT},
}
LEGAL_CLEANUP = {
    C.NONE: {C.PENDING, C.KEPT},
    C.PENDING: {C.NONE, C.SUCCEEDED, C.FAILED, C.TIMED_OUT, C.ABANDONED, C.KEPT},
}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(S, S)))
def test_a_step_makes_only_allowed_transitions(old: StepOutcome, new: StepOutcome) -> None:
    """An ended step never changes, and only a running step can succeed or fail."""
    if new in LEGAL_STEP.get(old, ()):
        assert change_step(old, new) is new
    else:
        with pytest.raises(ValueError, match=f"'{old}' cannot become '{new}'"):
            change_step(old, new)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(C, C)))
def test_a_cleanup_makes_only_allowed_transitions(old: CleanupOutcome, new: CleanupOutcome) -> None:
    """An ended cleanup never changes, and only a pending cleanup can succeed or fail."""
    if new in LEGAL_CLEANUP.get(old, ()):
        assert change_cleanup(old, new) is new
    else:
        with pytest.raises(ValueError, match=f"'{old}' cannot become '{new}'"):
            change_cleanup(old, new)


def test_the_names_of_the_outcomes() -> None:
    """Each outcome is a string that users can compare with."""
    steps = "pending running succeeded failed blocked skipped cancelled timed_out reused"
    assert " ".join(S) == steps
    assert " ".join(C) == "none pending succeeded failed timed_out abandoned kept"


def test_which_outcomes_provide_and_which_are_failures() -> None:
    """A succeeded or reused step provides; a failed or timed-out step is a failure."""
    assert {outcome for outcome in S if outcome.provides} == {S.SUCCEEDED, S.REUSED}
    assert {outcome for outcome in S if outcome.is_failure} == {S.FAILED, S.TIMED_OUT}
