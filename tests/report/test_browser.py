"""The HTML report in a real browser: rendering, interaction, and no console errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("jinja2", reason="HTML reports need the extra `report`")

from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.report.account import AttemptAccount
from pytest_plan.report.formats import html
from tests.report.support import browser
from tests.report.support.accounts import account, blocked, cleanup, failed, ran, step
from tests.report.support.browser import Browser

PROGRAM = browser.find()
if PROGRAM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)

EVIL = "</script><script>window.harm = 1</script><img src=x onerror='window.harm = 2'>"
TESTS = [ran(f"test_{n}", worker=f"gw{n % 2}", started=n / 9, seconds=0.1) for n in range(40)]
RUN = account(
    step("net", is_critical=True, cleanup=cleanup(CleanupOutcome.FAILED, error="in use")),
    step(
        "db",
        needs=("net",),
        started=1.0,
        seconds=3.0,
        is_critical=True,
        attempts_allowed=3,
        attempts=(
            AttemptAccount(1, "exec", 1.0, 1.0, f"no port {EVIL}"),
            AttemptAccount(2, "exec", 3.0, 1.0, None),
        ),
        cleanup=cleanup(),
    ),
    failed("cache", needs=("net",), error="E   ValueError", log=f"last words {EVIL}"),
    blocked("web", needs=("cache",)),
    step(
        "slow",
        outcome=StepOutcome.TIMED_OUT,
        stack="File x",
        cleanup=cleanup(CleanupOutcome.ABANDONED),
    ),
    tests=tuple(TESTS),
    critical_path=("net", "db"),
    outcome=StepOutcome.FAILED,
)
WIDTHS = (390, 1600)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all tests of this module."""
    assert PROGRAM is not None
    with Browser(PROGRAM, tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def page(chromium: Browser, tmp_path: Path) -> Iterator[Browser]:
    """The loaded report. After each test, it must have raised no errors and loaded nothing else."""
    path = tmp_path / "plan.html"
    path.write_text(html.text(RUN), encoding="utf-8")
    chromium.problems.clear()
    chromium.requests.clear()
    chromium.look(1600)
    chromium.open(path)
    yield chromium
    assert chromium.ask("window.harm") is None
    assert chromium.problems == []
    assert set(chromium.requests) <= {path.as_uri(), "data:,"}


def is_open(page: Browser, step: str) -> bool:
    """Return whether the details of a step are visible."""
    return bool(page.ask(f"document.querySelector('#step-{step} .detail').checkVisibility()"))


def shown(page: Browser) -> list[str]:
    """Return the names of the steps whose rows are visible."""
    names: list[str] = page.ask(
        "[...document.querySelectorAll('details.row')].filter(row => row.checkVisibility())"
        ".map(row => row.querySelector('.text').textContent)"
    )
    return names


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_renders(page: Browser, width: int, scheme: str) -> None:
    """Everything is visible in both widths and color schemes, without horizontal scrolling."""
    page.look(width, scheme=scheme)
    assert page.ask("document.documentElement.scrollWidth") == width
    assert shown(page) == [step.name for step in RUN.steps]
    for bars in ("#step-db .bar rect", ".lane .bar rect"):
        assert page.ask(f"document.querySelector('{bars}').getBoundingClientRect().width") > 0
    back = page.ask("getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 29)"}[scheme]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(page: Browser, scheme: str) -> None:
    """All text has a contrast of at least 4.5 to 1 with its background (WCAG AA)."""
    page.look(1600, scheme=scheme)
    page.click("#open-all")
    poor = page.ask("""(() => {
      const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
      const rgb = (color) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
      };
      const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
      const behind = (node) => {
        for (; node; node = node.parentElement) {
          const color = rgb(getComputedStyle(node).backgroundColor);
          if (color[3] === 255) return color;
        }
      };
      const found = [];
      for (const node of document.querySelectorAll("body *:not(svg *)")) {
        const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!own || !node.checkVisibility() || node.matches("script, option")) continue;
        const [a, b] = [rgb(getComputedStyle(node).color), behind(node)].map(light);
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) found.push(`${node.outerHTML.slice(0, 90)}: ${contrast.toFixed(2)}`);
      }
      return found;
    })()""")
    assert poor == []


@pytest.mark.parametrize("width", WIDTHS)
def test_click_opens_a_step(page: Browser, width: int) -> None:
    """The page opens with the failed steps unfolded; a click folds one, another unfolds it."""
    page.look(width)
    assert is_open(page, "cache")
    assert not is_open(page, "db")
    page.click("#step-cache summary")
    assert not is_open(page, "cache")
    page.click("#step-cache summary")
    assert is_open(page, "cache")
    detail = page.ask("document.querySelector('#step-cache .detail').innerText")
    for text in ("last words", "ValueError", "net", "nothing to undo", "RuntimeError: no"):
        assert text in detail


@pytest.mark.parametrize("key", ["Enter", " "])
def test_keyboard_opens_a_step(page: Browser, key: str) -> None:
    """Tab moves to the steps, arrow keys move between them, Enter and Space open them."""
    page.ask("document.querySelector('#open-all').focus()")
    page.press("Tab")
    page.press("ArrowDown")
    page.press("ArrowDown")
    page.press("ArrowUp")
    page.press(key)
    assert is_open(page, "db")
    assert page.ask("document.activeElement.parentElement.id") == "step-db"
    assert page.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_filter(page: Browser) -> None:
    """The filter finds words in names, outcomes, errors and logs, and counts the matches."""
    page.ask("document.querySelector('#filter').focus()")
    page.write("last words")
    assert shown(page) == ["cache"]
    assert page.ask("document.querySelector('#found').textContent") == "1 of 5 steps"
    page.write(" nothing-has-this")
    assert shown(page) == []
    assert page.ask("document.querySelector('#nothing').checkVisibility()")


def test_many_instances_of_a_step_are_folded(page: Browser, tmp_path: Path) -> None:
    """Their row opens by a click, by a filter that finds one of them, and if one of them is bad."""
    databases = [step(f"db@gw{number}", template="db") for number in range(7)]
    queues = [step(f"queue@gw{number}", template="queue") for number in range(5)]
    bad = failed("db@gw7", template="db")
    path = tmp_path / "plan.html"
    path.write_text(html.text(account(*databases, bad, *queues)), encoding="utf-8")
    page.open(path)
    names = [f"db@gw{number}" for number in range(8)]
    assert shown(page) == names
    texts = page.ask("[...document.querySelectorAll('.group > summary')].map(row => row.innerText)")
    assert "7 succeeded, gw7 failed" in texts[0]
    assert ["db \u00d78" in texts[0], "queue \u00d75" in texts[1]] == [True, True]
    page.click(".group:nth-of-type(2) > summary")
    assert len(shown(page)) == 13
    page.click(".group:nth-of-type(2) > summary")
    page.ask("document.querySelector('#filter').focus()")
    page.write("queue@gw3")
    assert shown(page) == ["queue@gw3"]


def test_problems_only(page: Browser) -> None:
    """The checkbox hides steps without problems: failures, timeouts, blocks and leftovers stay."""
    page.click("#bad-only")
    assert shown(page) == ["net", "cache", "web", "slow"]


def test_link_opens_a_step(page: Browser) -> None:
    """A link to a step opens and focuses it, and resets the filter."""
    page.click("#bad-only")
    page.click(".graph a[href='#step-db'] rect")
    assert shown(page) == [step.name for step in RUN.steps]
    assert is_open(page, "db")
    assert page.ask("document.activeElement.parentElement.id") == "step-db"
    assert page.ask("location.hash") == "#step-db"


def test_address_of_a_step_opens_it(page: Browser) -> None:
    """An address with the fragment of a step opens that step."""
    page.ask("location.hash = '#step-web'")
    page.call("Page.reload")
    page.ask("new Promise(done => setTimeout(done, 100))")
    assert is_open(page, "web")


def test_part_of_the_run(page: Browser) -> None:
    """Zooming in on cleanup widens its bars and makes the ruler begin there."""
    width = "document.querySelector('#step-db rect.clean').getBoundingClientRect().width"
    before = page.ask(width)
    page.ask("""(() => {
      const choice = document.querySelector("#span");
      choice.selectedIndex = [...choice.options].findIndex((o) => o.text === "cleanup");
      choice.dispatchEvent(new Event("change"));
    })()""")
    assert page.ask(width) > 4 * before
    assert page.ask("document.querySelector('#ruler span').textContent") == "8s"


def test_theme(page: Browser) -> None:
    """The button switches from the system's theme to light, to dark, and back."""
    found = []
    for _ in range(4):
        color = page.ask("getComputedStyle(document.body).backgroundColor")
        found.append((page.ask("document.querySelector('#theme').textContent"), color))
        page.click("#theme")
    light, dark = "rgb(255, 255, 255)", "rgb(21, 24, 29)"
    assert found == [
        ("Theme: auto", light),
        ("Theme: light", light),
        ("Theme: dark", dark),
        ("Theme: auto", light),
    ]


def test_screen_reader(page: Browser) -> None:
    """Screen readers find landmarks, headings, labels, and names for rows and pictures."""
    roles = page.roles()
    names = dict(reversed([(name, role) for role, name in roles]))
    assert {role for role, _ in roles} >= {"main", "banner", "contentinfo", "search", "region"}
    assert ("heading", "Timeline") in roles
    assert ("searchbox", "Filter") in roles
    assert ("checkbox", "Problems only") in roles
    summaries = [name for role, name in roles if role == "DisclosureTriangle"]
    assert summaries[1] == "db , on the critical path , succeeded , 3.00s"
    assert summaries[0].endswith("succeeded cleanup failed , 1.00s")
    assert names["gw0: 20 passed"] == "image"
    assert names["db, succeeded, needs net"] == "link"


def test_policy_blocks_injected_scripts(page: Browser) -> None:
    """The content security policy blocks a script that is inserted into the page."""
    page.ask("""(() => {
      const script = document.createElement("script");
      script.textContent = "window.harm = 3";
      document.body.append(script);
    })()""")
    assert page.ask("window.harm") is None
    assert any("Content Security Policy" in problem for problem in page.problems)
    page.problems.clear()
