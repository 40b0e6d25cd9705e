"""The pictures of README and the documentation are there, small, and can be made again."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.docs.pictures import __main__ as pictures

README = Path(__file__).parents[2] / "README.md"
MOST_BYTES = 200_000


def test_pictures_are_small_and_shown() -> None:
    """README shows the recording and the report; each picture has at most 200 kB."""
    files = {path.name: path.stat().st_size for path in pictures.ASSETS.iterdir()}
    assert max(files.values()) <= MOST_BYTES
    shown = set(re.findall(r"docs/assets/([\w.-]+)", README.read_text()))
    assert shown == {"terminal.svg", "report-light.png", "report-dark.png"}
    assert shown <= set(files)
    words = "".join(ET.parse(pictures.ASSETS / "terminal.svg").getroot().itertext())
    for part in ("plan: database  running", "Run failed. Tests: 1 failed, 3 blocked, 24 passed."):
        assert part in words
    assert "/tmp/" not in words


@pytest.mark.browser
def test_pictures_can_be_made_again(tmp_path: Path) -> None:
    """The command writes the same files, from a run that it starts."""
    pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
    if not shutil.which("chromium"):
        pytest.skip("Chromium is not installed")
    # Playwright refuses to run beside that of other tests in this process.
    command = [sys.executable, "-m", "tests.docs.pictures", str(tmp_path)]
    subprocess.run(command, cwd=README.parent, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {
        path.name for path in pictures.ASSETS.iterdir()
    }
