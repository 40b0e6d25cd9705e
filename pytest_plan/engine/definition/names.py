"""Step names: a check that a name is valid, and suggestions for an unknown name."""

from __future__ import annotations

import keyword
from collections.abc import Iterable

from pytest_plan.engine.model.errors import PlanDefinitionError


def check_name(name: object, origin: str) -> str:
    """Return `name` if it is a valid step name.

    A step name must be an identifier, because hooks and fixtures use it as a parameter name.

    Args:
        name: the name to check.
        origin: `file:line` of the declaration, for the error message.

    Raises:
        PlanDefinitionError: `name` is not an identifier, or is a Python keyword.
    """
    if isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name):
        return name
    raise PlanDefinitionError(
        f"{origin}: invalid step name {name!r}; use a Python identifier, "
        "because hooks and tests take the step's value as a parameter of that name"
    )


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` with the closest of `known`, or "" if none is close."""
    import difflib  # imported late to keep the startup of xdist workers fast

    near = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def unknown_step(name: str, steps: Iterable[str]) -> str:
    """Return the error message for an unknown step name, with suggestions and all step names."""
    names = ", ".join(steps)
    known = f"known steps: {names}" if names else "no steps are declared"
    return f"unknown step {name!r}{suggest(name, steps)} ({known})"
