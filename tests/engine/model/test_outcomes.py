"""How a step can stand, and which change is legal."""

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
def test_a_step_changes_as_it_may(old: StepOutcome, new: StepOutcome) -> None:
    """An end is final; success and failure come only from running."""
    if new in LEGAL_STEP.get(old, ()):
        assert change_step(old, new) is new
    else:
        with pytest.raises(ValueError, match=f"'{old}' cannot become '{new}'"):
            change_step(old, new)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(C, C)))
def test_a_cleanup_changes_as_it_may(old: CleanupOutcome, new: CleanupOutcome) -> None:
    """An end is final, and comes after a beginning."""
    if new in LEGAL_CLEANUP.get(old, ()):
        assert change_cleanup(old, new) is new
    else:
        with pytest.raises(ValueError, match=f"'{old}' cannot become '{new}'"):
            change_cleanup(old, new)


def test_the_words_are_those_of_the_design() -> None:
    """Outcomes are their own text."""
    steps = "pending running succeeded failed blocked skipped cancelled timed_out reused"
    assert " ".join(S) == steps
    assert " ".join(C) == "none pending succeeded failed timed_out abandoned kept"


def test_what_provides_and_what_failed() -> None:
    """A step provides when it succeeded or was reused; it failed by itself or by its timeout."""
    assert {outcome for outcome in S if outcome.provides} == {S.SUCCEEDED, S.REUSED}
    assert {outcome for outcome in S if outcome.is_failure} == {S.FAILED, S.TIMED_OUT}
