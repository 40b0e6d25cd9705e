"""Writes `docs/assets`: a recording of the terminal, and pictures of the report of the same run."""

from __future__ import annotations

import platform
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.docs.pictures import project, recording

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ASSETS = Path(__file__).parents[3] / "docs" / "assets"


def main(assets: Path = ASSETS) -> None:
    """Run the project once, and write all files into a folder."""
    assets.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "shop"
        folder.mkdir()
        project.write(folder)
        argv = [sys.executable, "-m", *_loaded(project.COMMAND)]
        frames = recording.record(
            project.COMMAND, argv, folder, {str(folder): "/home/you/shop", "-p pytest_plan ": ""}
        )
        (assets / "terminal.svg").write_text(recording.svg(frames), encoding="utf-8")
        page = folder / "plan.html"
        text = page.read_text(encoding="utf-8")
        for old, new in ((platform.node(), "laptop"), ("-p pytest_plan ", "")):
            text = text.replace(old, new)
        page.write_text(text, encoding="utf-8")
        _shoot(page, assets)


def _loaded(command: str) -> list[str]:
    name, *arguments = shlex.split(command)
    return [name, "-p", "pytest_plan", *arguments]


def _shoot(page: Path, assets: Path) -> None:
    """Write the pictures of the report."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            opened = _opened(browser, page, 1120, 820, scheme)
            opened.screenshot(path=assets / f"report-{scheme}.png")
        opened.locator("#steps").evaluate("section => section.scrollIntoView()")
        opened.locator("#step-schema svg.bar").hover(position={"x": 150, "y": 8})
        opened.screenshot(path=assets / "timeline.png")
        narrow = _opened(browser, page, 390, 820, "light")
        narrow.screenshot(path=assets / "report-phone.png")
        browser.close()


def _opened(browser: Browser, page: Path, width: int, height: int, scheme: str) -> Page:
    opened = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    opened.goto(page.as_uri())
    return opened


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
