"""A browser that the tests of this folder share, and reports to open in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from pytest_plan.report.account import Account

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, ViewportSize

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SCREENSHOTS = "PLAN_TEST_SCREENSHOTS"  # the folder in which screenshots are kept

Opens: TypeAlias = Callable[..., "Page"]


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """A browser; tests are skipped where there is none."""
    pytest.importorskip("jinja2", reason="HTML reports need the extra `report`")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as running:
        # Chromium does not run as root in its sandbox.
        started = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def problems() -> list[str]:
    """What the console of the pages has said, and their errors; it must be empty at the end."""
    return []


@pytest.fixture
def opens(chromium: Browser, tmp_path: Path, problems: list[str]) -> Iterator[Opens]:
    """Open a report, given by its account or its path, in a page of its own.

    When the test has ended, the page must have raised no error, loaded nothing else, and executed
    nothing that texts of the report contain.
    """
    requests: list[str] = []
    pages: list[Page] = []

    def opened(report: Account | Path, width: int = 1280, *, at: str = "", **options: Any) -> Page:
        path = report if isinstance(report, Path) else _written(report, tmp_path)
        size: ViewportSize = {"width": width, "height": 900}
        page = chromium.new_page(viewport=size, reduced_motion="reduce", **options)
        pages.append(page)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url.partition("#")[0]))
        page.goto(f"{path.as_uri()}{at}")
        assert set(requests) <= {path.as_uri(), "data:,"}
        return page

    yield opened
    harms = [page.evaluate("window.harm ?? null") for page in pages if page.url != "about:blank"]
    for page in pages:
        page.context.close()
    assert problems == []
    assert harms == [None] * len(harms)


def wait(page: Page, condition: str) -> None:
    """Wait until a JavaScript expression is true."""
    pause = "await new Promise((done) => setTimeout(done, 10))"
    page.evaluate(f"async () => {{ while (!({condition})) {pause}; }}")


def _written(report: Account, folder: Path) -> Path:
    from pytest_plan.report.formats import html

    path = folder / "plan.html"
    path.write_text(html.text(report, folder), encoding="utf-8")
    return path


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Callable[[Page, str], None]:
    """Keep a screenshot in the folder that `PLAN_TEST_SCREENSHOTS` names."""

    def kept(page: Page, name: str) -> None:
        if folder := os.environ.get(SCREENSHOTS):
            Path(folder).mkdir(parents=True, exist_ok=True)
            # Written here, because Playwright would start a thread for it.
            (Path(folder) / f"{name}.png").write_bytes(page.screenshot(full_page=True))

    return kept
