"""The first commands of the tutorial install pytest-plan from a clone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.not_run import NOT_RUN
from tests.docs.pages import blocks
from tests.plugin.project import ROOT

PACKAGED = ("pytest_plan", "pyproject.toml", "CHANGELOG.md", "LICENSE", "README.md", "SECURITY.md")


@pytest.mark.recipes
def test_the_tutorial_begins_in_a_clone(tmp_path: Path) -> None:
    """After its first commands, the first example of the tutorial passes."""
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in PACKAGED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, clone / name)
    conftest, test = (block for block in blocks("tutorial")[1:3])
    (tmp_path / "tutorial").mkdir()
    for block in (conftest, test):
        assert block.file
        (tmp_path / "tutorial" / block.file).write_text(block.text)
    commands = "\n".join(["set -e", *NOT_RUN["docs/tutorial.md"], "pytest -p no:cacheprovider"])
    outside = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD", "PYTEST_PLUGINS", "PYTHONPATH", "VIRTUAL_ENV"}
    result = subprocess.run(
        ["bash", "-c", commands.replace("mkdir ", "mkdir -p ")],
        cwd=clone, env={name: os.environ[name] for name in os.environ if name not in outside},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout
