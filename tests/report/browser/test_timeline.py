"""The timeline and the steps in a real browser: zoom, tip, folds, filter, keys."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.report.browser.conftest import Opens, wait
from tests.report.browser.runs import red
from tests.report.support.accounts import account, failed, step

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def shown(page: Page) -> list[str]:
    """Return the names of the steps whose rows are visible."""
    return page.locator("details.row > summary .name:visible").all_inner_texts()


def view(page: Page) -> tuple[float, float]:
    """Return the left end and the width of what the timeline shows, of 1000."""
    box = page.locator("#step-db svg.bar").get_attribute("viewBox")
    assert box is not None
    left, _, width, _ = map(float, box.split())
    return left, width


def test_zoom(opens: Opens) -> None:
    """The wheel, keys, buttons and the list of phases zoom; dragging and arrow keys move."""
    page = opens(red())
    ruler = page.locator("#ruler")
    ruler.hover()
    box = ruler.bounding_box()
    assert box is not None
    middle = (box["x"] + box["width"] / 2, box["y"] + 5)
    page.mouse.move(*middle)
    page.mouse.wheel(0, -100)
    wait(page, "document.querySelector('#span').value === ''")
    left, width = view(page)
    assert width == pytest.approx(1000 / 1.5)
    assert left + width / 2 == pytest.approx(500, abs=2)
    page.mouse.down()
    page.mouse.move(middle[0] + box["width"] / 10, middle[1])
    page.mouse.up()
    assert view(page)[0] == pytest.approx(left - width / 10, abs=2)
    page.locator("#zoom-reset").click()
    assert view(page) == (0, 1000)

    page.locator("#step-db > summary").focus()
    page.keyboard.press("+")
    left, width = view(page)
    assert (left, width) == (75, 500)  # the first attempt, from 1 s to 2 s of 10 s, stays there
    page.keyboard.press("ArrowRight")
    assert view(page) == (175, 500)
    page.keyboard.press("-")
    page.keyboard.press("0")
    assert view(page) == (0, 1000)

    page.locator("#zoom-in").click()
    page.locator("#zoom-in").click()
    assert view(page) == (375, 250)
    page.locator("#span").select_option(label="cleanup")
    assert view(page) == (800, 200)
    assert ruler.locator("span").first.inner_text() == "8s"
    assert ruler.get_attribute("aria-label") == "Time axis from 8s to 10s"


def test_wheel_scrolls_the_page_unless_ctrl_is_held(opens: Opens) -> None:
    """Over a bar, the wheel alone scrolls; with Ctrl it zooms."""
    page = opens(red())
    page.locator("#step-db svg.bar").hover()
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, 60)
    wait(page, f"scrollY !== {before}")
    assert view(page) == (0, 1000)
    page.locator("#step-db svg.bar").hover()
    page.keyboard.down("Control")
    page.mouse.wheel(0, -60)
    wait(page, "document.querySelector('#span').value === ''")
    page.keyboard.up("Control")
    assert view(page)[1] == pytest.approx(1000 / 1.5)


def test_tip(opens: Opens) -> None:
    """The tip tells which bar is under the pointer, and all bars of the row with the focus."""
    page = opens(red())
    bar = page.locator("#step-db svg.bar")
    bar.hover()
    box = bar.bounding_box()
    assert box is not None
    tip = page.locator("#tip")
    bar.hover(position={"x": box["width"] * 0.35, "y": 8})
    assert tip.inner_text() == "db: attempt 2 of 3 succeeded, 1.00s (3.00s to 4.00s)"
    bar.hover(position={"x": box["width"] * 0.6, "y": 8})
    assert tip.is_hidden()
    lane = page.locator(".lane svg.bar").nth(1)
    lane.hover(position={"x": box["width"] * 0.08, "y": 8})
    assert tip.inner_text().startswith("test_shop.py::test_red: failed, 0.50s")

    page.mouse.move(0, 0)
    page.locator("#step-net > summary").focus()
    page.keyboard.press("ArrowDown")
    assert tip.inner_text().split("\n") == [
        "attempt 1 of 3 failed, 1.00s (1.00s to 2.00s)",
        "waited before attempt 2, 1.00s (2.00s to 3.00s)",
        "attempt 2 of 3 succeeded, 1.00s (3.00s to 4.00s)",
        "cleanup succeeded, 1.00s (8.00s to 9.00s)",
    ]
    focused = page.locator("#step-db > summary")
    assert focused.get_attribute("aria-describedby") == "tip"
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.locator(".lane").first.focus()
    assert tip.inner_text() == "30 passed, 120 blocked; busy for 3.00s"
    lane.click(position={"x": box["width"] * 0.08, "y": 8})
    assert page.locator("#test-text").input_value() == "test_shop.py::test_red"


def test_folds_and_keys(opens: Opens) -> None:
    """Arrow keys move between rows, Enter and Space unfold them; details are made only then."""
    page = opens(red())
    assert page.locator(".row .detail").count() == 0
    page.locator("#zoom-reset").focus()
    page.keyboard.press("Tab")  # the ruler
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    detail = page.locator("#step-db .detail")
    assert detail.is_visible()
    assert "no port </script>" in detail.inner_text()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Space")
    assert detail.is_hidden()
    page.locator("#step-cache > summary").click()
    assert "last words" in page.locator("#step-cache .detail").inner_text()
    page.locator("#open-all").click()
    assert page.locator(".row .detail:visible").count() == 5
    page.locator("#open-all").click()
    assert page.locator(".row .detail:visible").count() == 0


def test_filter(opens: Opens) -> None:
    """The filter finds words in names, outcomes, errors and logs, also of folded rows."""
    page = opens(red())
    page.locator("#filter").fill("last words")
    assert shown(page) == ["cache"]
    assert page.locator("#found").inner_text() == "1 of 5 steps"
    page.locator("#filter").fill("nothing-has-this")
    assert shown(page) == []
    assert page.locator("#nothing").is_visible()
    page.locator("#filter").fill("")
    page.locator("#bad-only").check()
    assert shown(page) == ["net", "cache", "web", "slow"]
    page.locator(".graph a", has_text="db").click()
    assert shown(page) == ["net", "db", "cache", "web", "slow"]
    assert page.locator("#step-db .detail").is_visible()
    assert page.evaluate("document.activeElement.parentElement.id") == "step-db"
    assert page.evaluate("location.hash") == "#step-db"
    page.reload()
    assert page.locator("#step-db .detail").is_visible()


def test_many_instances_of_a_step_are_folded(opens: Opens) -> None:
    """Their rows are made by a click, by a filter that finds one of them, and if one is bad."""
    databases = [step(f"db@gw{number}", template="db") for number in range(7)]
    queues = [step(f"queue@gw{number}", template="queue") for number in range(5)]
    page = opens(account(*databases, failed("db@gw7", template="db"), *queues))
    assert shown(page) == [f"db@gw{number}" for number in range(8)]
    texts = page.locator(".group > summary").all_inner_texts()
    assert "7 succeeded, gw7 failed" in texts[0]
    assert ["db \u00d78" in texts[0], "queue \u00d75" in texts[1]] == [True, True]
    page.locator(".group > summary").nth(1).click()
    assert len(shown(page)) == 13
    page.locator(".group > summary").nth(1).click()
    page.locator("#filter").fill("queue@gw3")
    assert shown(page) == ["queue@gw3"]


def test_steps_may_have_any_name(opens: Opens) -> None:
    """A step may be called like an id of the page, like a method of its objects, or as a path."""
    names = ["constructor", "title", "a/b", "c d@gw0"]
    steps = [step(name, needs=tuple(names[:1]), log=f"log of {name}") for name in names[1:]]
    run = account(failed(names[0], log="log of constructor"), *steps)
    for name in names:
        page = opens(run, at=f"#step-{quote(name)}")
        detail = page.locator(f"[data-step='{name}'] .detail")
        assert f"log of {name}" in detail.inner_text()
        if name != names[0]:
            detail.get_by_role("link", name="constructor").click()
            assert "log of constructor" in page.locator("#step-constructor .detail").inner_text()
