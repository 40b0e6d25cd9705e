"""names."""

from __future__ import annotations

import keyword
from collections.abc import Iterable

from pytest_plan.engine.model.errors import PlanDefinitionError


def check_name(name: object, origin: str) -> str:
    """Return `name` if it can be a step's: an identifier, since it is a parameter and a fixture."""
    if isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name):
        return name
    raise PlanDefinitionError(
        f"{origin}: {name!r} cannot be the name of a step: it must be an identifier, "
        "because hooks and tests take the step's value under that name"
    )


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest of `known`, or nothing."""
    import difflib  # here, for every worker of pytest-xdist would pay for it

    near = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def no_step(name: str, steps: Iterable[str]) -> str:
    """Return what is said of a name that is no step: the nearest, and all there are."""
    names = ", ".join(steps)
    there_are = f"the steps are {names}" if names else "no step is declared"
    return f"is no step{suggest(name, steps)}; {there_are}"
