"""The undo stack of a step."""

from __future__ import annotations

import pytest

from pytest_plan.engine.calls.body import PlainBody
from pytest_plan.engine.calls.call import CallScope
from pytest_plan.engine.calls.loop import StepLoop
from pytest_plan.engine.calls.undo import Undo, UndoStack
from pytest_plan.engine.model.outcomes import Hook
from tests.engine.support.steps import Background

ALL = frozenset(Hook)


def entry(hook: Hook, label: str) -> Undo:
    """Return an undo that does nothing."""
    return Undo(hook, label, PlainBody(print), CallScope("db", hook, 1, None))


@pytest.fixture
def stack() -> UndoStack:
    """Three entries of two hooks."""
    stack = UndoStack(StepLoop("db"))
    for hook, label in ((Hook.PRE_EXEC, "a"), (Hook.EXEC, "b"), (Hook.PRE_EXEC, "c")):
        stack.push(entry(hook, label))
    return stack


def labels(stack: UndoStack, hooks: frozenset[Hook]) -> str:
    """Pop all undos of some hooks, and join their labels."""
    found = ""
    while (undo := stack.pop(hooks)) is not None:
        found += undo.label
    return found


def test_the_last_comes_off_first(stack: UndoStack) -> None:
    """Each undo is popped once."""
    assert len(stack) == 3
    assert labels(stack, ALL) == "cba"
    assert len(stack) == 0


def test_what_other_hooks_made_stays(stack: UndoStack) -> None:
    """The undos of other hooks keep their order."""
    assert labels(stack, frozenset({Hook.PRE_EXEC})) == "ca"
    assert labels(stack, ALL) == "b"


def test_what_is_pushed_meanwhile_is_next(stack: UndoStack) -> None:
    """An undo may register another undo."""
    stack.pop(ALL)
    stack.push(entry(Hook.CLEANUP, "d"))
    assert labels(stack, ALL) == "dba"


def test_nothing_is_lost_between_threads() -> None:
    """Four threads push while another one pops."""
    stack = UndoStack(StepLoop("db"))

    def push() -> None:
        for _ in range(500):
            stack.push(entry(Hook.EXEC, "x"))

    threads = [Background(push) for _ in range(4)]
    count = 0
    while count < 2000:
        count += stack.pop(ALL) is not None
    for thread in threads:
        thread.result()
    assert stack.pop(ALL) is None
