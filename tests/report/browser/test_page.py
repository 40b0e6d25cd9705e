"""The HTML report as a whole in a real browser: what it opens with, its looks, accessibility."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.plugin.project import Project
from tests.report.browser.conftest import Opens, wait
from tests.report.browser.runs import large, red

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def test_it_opens_at_what_failed(opens: Opens) -> None:
    """The first section has the error, the end of the log, and every attempt; folds are closed."""
    page = opens(red())
    assert page.locator("h1").inner_text() == "Run failed"
    assert page.locator("main > section").first.get_attribute("id") == "failed"
    assert page.locator("#failed details.card[open] h3 .name").all_inner_texts() == [
        "net",
        "cache",
        "slow",
    ]
    card = page.locator("#failed-cache")
    assert "E   ValueError" in card.inner_text()
    assert "2 of 2 failed" in card.inner_text()
    assert "pytest --plan-until cache" in card.inner_text()
    log = card.locator("pre.log")
    assert log.evaluate("log => log.scrollTop + log.clientHeight >= log.scrollHeight - 1")
    assert not card.locator("pre", has_text="Traceback").is_visible()
    card.get_by_text("Traceback of attempt 1").click()
    assert card.locator("pre", has_text="Traceback").is_visible()
    fold = card.get_by_text("120 tests blocked by cache")
    fold.click()
    assert card.locator(".test-rows li").count() == 50
    card.get_by_role("button", name="Show 50 more of 70").click()
    assert card.locator(".test-rows li").count() == 100
    red_test = page.locator("#failed .card.test")
    assert "E assert 0" in red_test.inner_text()
    facts = page.locator(".facts").inner_text()
    assert "4f1c0d9be2a7" in facts
    assert page.get_by_role("link", name="ci.example/job/7").get_attribute("href")


def test_without_javascript_what_failed_is_there(opens: Opens) -> None:
    """Without scripts, the page shows what failed, and says what it cannot show."""
    page = opens(red(), java_script_enabled=False)
    text = page.locator("#failed").inner_text()
    for part in (
        "E   ValueError",
        "last words",
        "2 of 2 failed",
        "E assert 0",
        "120 tests blocked",
    ):
        assert part in text
    assert "The list of all tests needs JavaScript" in page.locator("#tests").inner_text()
    assert not page.locator("#tools").is_visible()
    page.goto("about:blank")


def test_large_run_opens_with_few_elements(opens: Opens, keep: Callable[[Page, str], None]) -> None:
    """With 5,000 tests and 200 steps there are at most 3,000 elements; the rest is made later."""
    page = opens(large())
    keep(page, "large")
    assert page.locator("*").count() <= 3_000
    assert page.locator("#rows > details.row").count() == 200
    assert page.locator("#tests-found").inner_text() == "5,000 tests"
    page.locator(".test-group", has_text="passed").locator("summary").click()
    assert page.locator(".test-group li").count() == 50
    page.locator("#test-text").fill("test_order[4999]")
    assert page.locator("#tests-found").inner_text() == "1 of 5,000 tests"


def test_steps_beyond_the_first_are_folded(opens: Opens) -> None:
    """A run with more steps opens with 200 rows; a fold, a filter or a link makes the others."""
    page = opens(large(steps=450, tests=10))
    assert page.locator("*").count() <= 3_000
    assert page.locator("#rows details.row").count() == 200
    page.get_by_text("250 more steps").click()
    assert page.locator("#rows details.row").count() == 450
    other = opens(large(steps=450, tests=10), at="#step-service_444")
    assert other.locator("#step-service_444 .detail").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_looks(opens: Opens, keep: Callable[[Page, str], None], width: int, scheme: str) -> None:
    """In both widths and schemes nothing is cut off, and axe-core finds nothing serious."""
    from axe_playwright_python.sync_playwright import Axe

    page = opens(red(), width, color_scheme=scheme)
    keep(page, f"red-{width}-{scheme}")
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 29)"}[scheme]
    page.click("#open-all")
    for group in page.locator(".test-group > summary").all():
        group.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for bars in ("#step-db .bar path.good", ".lane .bar path.good"):
        box = page.locator(bars).first.bounding_box()
        assert box is not None
        assert box["width"] > 0
    found = Axe().run(page).response["violations"]
    assert [each for each in found if each["impact"] in ("serious", "critical")] == []


def test_theme(opens: Opens) -> None:
    """The button switches from the system's theme to light, to dark, and back; print is light."""
    page = opens(red(), color_scheme="dark")
    found = []
    for _ in range(4):
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        found.append((page.locator("#theme").inner_text(), color))
        page.click("#theme")
    light, dark = "rgb(255, 255, 255)", "rgb(21, 24, 29)"
    assert found == [
        ("Theme: auto", dark),
        ("Theme: light", light),
        ("Theme: dark", dark),
        ("Theme: auto", dark),
    ]
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light


def test_screen_reader(opens: Opens) -> None:
    """Screen readers find landmarks, headings, labels, and names for rows and pictures."""
    page = opens(red())
    tree = page.locator("body").aria_snapshot()
    for part in (
        "- banner:",
        "- main:",
        "- contentinfo:",
        'heading "Timeline" [level=2]',
        'searchbox "Filter"',
        'checkbox "Problems only"',
        'combobox "Outcome"',
        'img "gw0: 30 passed, 120 blocked"',
        'link "db, succeeded, needs net"',
    ):
        assert part in tree
    assert page.locator("#step-net summary").inner_text().split("\n")[0] == "net"


def test_policy_blocks_injected_scripts(opens: Opens, problems: list[str]) -> None:
    """The content security policy blocks a script that is inserted into the page."""
    page = opens(red())
    page.evaluate("""(() => {
      document.addEventListener("securitypolicyviolation", () => window.seen = true);
      const script = document.createElement("script");
      script.textContent = "window.harm = 3";
      document.body.append(script);
    })()""")
    wait(page, "window.seen")
    assert ["Content Security Policy" in problem for problem in problems] == [True]
    problems.clear()


def test_report_of_a_real_run(
    opens: Opens, project: Project, keep: Callable[[Page, str], None]
) -> None:
    """With workers: blocked tests are under their step, tests know their steps, artifacts open."""
    project.steps("""
    @pytest.mark.plan_step(needs=())
    def net(): pass

    @pytest.mark.plan_step(needs=(), retries=1, retry_wait=0)
    def db(ctx):
        (ctx.artifacts / "dump of it.txt").write_text("what is left")
        ctx.log("last words")
        raise RuntimeError(f"attempt {ctx.attempt} </script><b>")

    @pytest.mark.plan_step(needs=["net"])
    def web(): pass
    """)
    project.tests("""
    def test_db(db): pass
    def test_web(web): assert "</script>" == "<!--"
    def test_nothing(): pass
    """)
    project.run("--plan-report=plan.html", "--plan-continue-on-error", "-p", "xdist", "-n", "2")
    page = opens(project.path / "plan.html")
    keep(page, "real")
    card = page.locator("#failed-db").inner_text()
    assert "attempt 2 </script><b>" in card
    assert "last words" in card
    page.locator("#failed-db .attempts summary").click()
    assert "attempt 1 </script><b>" in page.locator("#failed-db .attempts pre").inner_text()
    groups = page.locator(".test-group .name").all_inner_texts()
    assert groups == ["1 failed", "1 blocked by db", "1 passed"]
    page.locator("#test-step").select_option("net")
    assert page.locator("#tests-found").inner_text() == "1 of 3 tests"
    with page.expect_navigation():
        page.get_by_role("link", name="dump of it.txt").first.click()
    assert page.locator("body").inner_text() == "what is left"
