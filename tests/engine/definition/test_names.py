"""Names of steps: what they mean, and suggestions for unknown ones."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from pytest_plan.engine.definition.names import StepNames, suggest, unknown_step
from pytest_plan.engine.model.errors import PlanDefinitionError, StateError


def test_the_closest_names_are_suggested() -> None:
    """Without a close name there is no suggestion."""
    assert suggest("orders", ["order", "web"]) == "; did you mean 'order'?"
    assert suggest("xyz", ["order", "web"]) == ""


def test_an_unknown_step_is_reported_with_the_known_ones() -> None:
    """The message has a suggestion and all step names, or says that there are no steps."""
    assert unknown_step("wep", ["db", "web"]) == (
        "unknown step 'wep'; did you mean 'web'? (known steps: db, web)"
    )
    assert unknown_step("web", []) == "unknown step 'web' (no steps are declared)"


def test_a_suggestion_compares_own_names() -> None:
    """A name with a folder is compared with full names."""
    known = ["a/db", "b/db", "web"]
    assert suggest("dbx", known) == "; did you mean 'a/db' or 'b/db'?"
    assert suggest("a/dbx", known).startswith("; did you mean 'a/db'")


class Named(NamedTuple):
    """A step, as far as its names are concerned."""

    name: str
    full_name: str
    scope: tuple[str, ...]


def names(*steps: tuple[str, str]) -> StepNames:
    """Return the names of steps, each given by its name in the run and its full name."""
    found = (Named(name, full, tuple(full.split("/")[:-1])) for name, full in steps)
    return StepNames({step.name: step for step in found})


class TestMeanings:
    """Which step a name means in a folder."""

    TWINS = (("a/db", "a/db"), ("b/db", "b/db"), ("web", "web"), ("mail", "b/mail"))

    @pytest.mark.parametrize(
        ("scope", "name", "step"),
        [
            (("a",), "db", "a/db"),
            (("b", "deep"), "db", "b/db"),
            (("a",), "b/db", "b/db"),
            (("a",), "mail", "mail"),
            (("a",), "b/mail", "mail"),
            (None, "a/db", "a/db"),
            (None, "web", "web"),
            (None, "b/web", None),
            (("a",), "nothing", None),
        ],
    )
    def test_a_name_means(self, scope: tuple[str, ...] | None, name: str, step: str | None) -> None:
        """The visible step, or the one with this full name, or the only one with this own name."""
        assert names(*self.TWINS).find(name, scope) == step

    @pytest.mark.parametrize("scope", [None, ("c",), ()])
    def test_a_name_that_could_mean_several(self, scope: tuple[str, ...] | None) -> None:
        """It is an error that lists the full names, also as a key of the State."""
        text = "several steps are called 'db'; use the full name of one: a/db, b/db"
        with pytest.raises(PlanDefinitionError, match=text):
            names(*self.TWINS).find("db", scope)
        with pytest.raises(StateError, match=text):
            names(*self.TWINS).seen_from(scope).key("db")

    def test_a_step_that_kept_its_name(self) -> None:
        """Where its sibling is visible, it can only be called by its full name."""
        found = names(("db", "a/db"), ("b/db", "b/db"))
        assert [found.find(name, ("a",)) for name in ("db", "a/db", "b/db")] == ["db", "db", "b/db"]
        assert [found.find(name, ("b",)) for name in ("db", "a/db")] == ["b/db", "db"]
        with pytest.raises(PlanDefinitionError, match="several steps are called 'db'"):
            found.find("db", None)

    def test_names_that_are_shown(self) -> None:
        """A visible step by its own name, another by its full name, and other keys as they are."""
        steps = (("db", "a/db"), ("b/db", "b/db"), ("c/db", "c/db"))
        for folder in "abc":
            seen = names(*steps).seen_from((folder,))
            shown = [seen.shown(name) for name, _ in steps]
            assert shown == ["db" if one == folder else f"{one}/db" for one in "abc"]
            assert [seen.key(name) for name in shown] == [name for name, _ in steps]
        assert seen.shown("free") == seen.key("free") == "free"
