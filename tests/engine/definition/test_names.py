"""Names of steps, and suggestions for unknown ones."""

from __future__ import annotations

from pytest_plan.engine.definition.names import suggest, unknown_step


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
