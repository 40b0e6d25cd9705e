"""Reads marks: `plan_step` on functions and classes, those of tests, `skip` and `skipif`."""

from __future__ import annotations

import os
import platform
import sys
import types
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from pytest_plan.plugin.compat.fixture_internals import fixture_info

STEP = "plan_step"
NEEDS = "plan"
EACH = "plan_each"
ALONE = "plan_alone"

# Each function behind a fixture of the plugin has this attribute. It is the full name of the step
# whose value the fixture returns, or `ALL_STEPS`.
STEP_OF_FIXTURE = "plan_step_name"
ALL_STEPS = "*"


def step_marks(obj: object) -> list[pytest.Mark]:
    """Return the `plan_step` marks of a function or class, excluding inherited marks."""
    # Other objects are not inspected, because some claim to have any attribute (xdist's Producer).
    if not isinstance(obj, (types.FunctionType, type)):
        return []
    marks = vars(obj).get("pytestmark", ())
    marks = marks if isinstance(marks, (list, tuple)) else [marks]
    return [mark for mark in marks if getattr(mark, "name", None) == STEP]


def steps_of(module: types.ModuleType) -> list[tuple[object, list[pytest.Mark]]]:
    """Return the functions and classes of a module that are marked as steps, with their marks."""
    found = [(obj, step_marks(obj)) for obj in vars(module).values()]
    return [(obj, marks) for obj, marks in found if marks]


def takes_handle(item: pytest.Item) -> bool:
    """Return whether a test uses the plugin's fixture `plan`, and not one of the same name."""
    info = fixture_info(item)
    for definition in () if info is None else reversed(info.name2fixturedefs.get(NEEDS, ())):
        if hasattr(definition.func, STEP_OF_FIXTURE):
            return True
        if NEEDS not in definition.argnames:
            return False
    return False


def is_alone(item: pytest.Item) -> bool:
    """Return whether no other test may run while this one does."""
    return item.get_closest_marker(ALONE) is not None


def any_alone(items: Iterable[pytest.Item]) -> bool:
    """Return whether a test must run alone; the marks of each parent are read only once."""
    parents: set[int] = set()
    for item in items:
        if any(mark.name == ALONE for mark in item.own_markers):
            return True
        parent = item.parent
        if parent is not None and id(parent) not in parents:
            parents.add(id(parent))
            if parent.get_closest_marker(ALONE) is not None:
                return True
    return False


def skip_reason(obj: object, names: Mapping[str, Any] | None = None) -> str | None:
    """Return the reason of the object's first `skip` or true `skipif` mark, or None.

    Args:
        obj: the function or class.
        names: the variables for conditions given as text; None means the function's globals.
    """
    marks = vars(obj).get("pytestmark", ()) if hasattr(obj, "__dict__") else ()
    for mark in marks if isinstance(marks, (list, tuple)) else [marks]:
        reason = mark_skips(mark, names or getattr(obj, "__globals__", {}))
        if reason is not None:
            return reason
    return None


def mark_skips(mark: pytest.Mark, names: Mapping[str, Any]) -> str | None:
    """Return the reason if this mark skips, or None; `names` are for conditions given as text."""
    reason = str(mark.kwargs.get("reason", ""))
    if mark.name == "skip":
        return reason or str(mark.args[0] if mark.args else "unconditional skip")
    if mark.name != "skipif":
        return None
    conditions = mark.args or (mark.kwargs.get("condition", False),)
    for condition in conditions:
        if _is_true(condition, names):
            return reason or f"condition: {condition}"
    return None


def _is_true(condition: object, names: Mapping[str, Any]) -> bool:
    if not isinstance(condition, str):
        return bool(condition)
    # pytest also provides these names to such conditions.
    known = {"os": os, "sys": sys, "platform": platform, **names}
    return bool(eval(condition, known))  # noqa: S307 - text from the user's own mark
