"""The list of tests in a real browser: groups and filters."""

from __future__ import annotations

import pytest

from tests.report.browser.conftest import Opens, wait
from tests.report.browser.runs import red

pytestmark = pytest.mark.browser


def test_filters(opens: Opens) -> None:
    """Tests are filtered by outcome, stage, text, and a step that they need at any distance."""
    page = opens(red())
    groups, found = page.locator(".test-group > summary .name"), page.locator("#tests-found")
    rows = page.locator(".test-rows:visible .node")
    everything = ["1 failed", "120 blocked by cache", "59 passed"]
    assert groups.all_inner_texts() == everything
    assert rows.count() == 0

    page.locator("#test-outcome").select_option("failed")
    assert rows.all_inner_texts() == ["test_shop.py::test_red"]
    page.locator(".test-rows summary").press("Enter")
    assert "E assert 0 </script>" in page.locator(".test-rows pre").inner_text()
    page.locator("#test-outcome").select_option("")

    page.locator("#test-step").select_option("net")
    assert groups.all_inner_texts() == everything
    assert page.locator(".test-group[open] > summary .name").all_inner_texts() == [
        "1 failed",
        "59 passed",
    ]
    page.locator("#test-step").select_option("cache")
    assert groups.all_inner_texts() == ["120 blocked by cache"]
    assert rows.count() == 0  # folded under its step
    page.locator("#test-stage").select_option("1")
    assert page.locator("#test-groups").inner_text() == "No matching tests."
    assert found.inner_text() == "0 of 180 tests"

    page.get_by_role("button", name="Reset", exact=True).last.click()
    wait(page, "document.querySelector('#tests-found').textContent === '180 tests'")
    page.locator("#test-text").focus()
    page.keyboard.type("web test_11")
    assert found.inner_text() == "11 of 180 tests"  # test_11 and test_110 to test_119
    assert rows.count() == 11
    page.keyboard.press("Escape")


def test_keys(opens: Opens) -> None:
    """Arrow keys move between the groups, Enter unfolds one, and it stays so after a filter."""
    page = opens(red())
    page.locator(".test-group > summary").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator(".test-group li:visible").count() == 50
    page.locator(".more:visible").press("Enter")
    assert page.locator(".test-group li:visible").count() == 59
    page.locator("#test-text").fill("test_shop")
    page.locator("#test-text").fill("")
    assert page.locator(".test-group[open] > summary .name").all_inner_texts() == ["59 passed"]
