"""Settings and fixtures shared by all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
_STEP = """
import pytest

@pytest.mark.plan_step
def made(): return "made"
"""


def pytest_configure() -> None:
    """Prevent runs from sharing a cache: under tox pytest would use one place for all of them."""
    os.environ.pop("TOX_ENV_DIR", None)


@pytest.fixture(scope="session")
def byte_code(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile the package once, as if it were installed; most test runs may not write byte code.

    This takes a run of pytest, which writes its own byte code for modules with rewritten asserts.
    """
    folder = tmp_path_factory.mktemp("byte_code")
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(_STEP)
    (folder / "test_it.py").write_text("def test_it(made): pass")
    environment = {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPATH": str(ROOT),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    for workers in ("0", "1"):
        subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "xdist", "-p", "pytest_plan", "-n", workers],
            cwd=folder,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
