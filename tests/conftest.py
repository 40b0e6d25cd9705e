"""What every test of the suite shares."""

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
    """Let no two runs share a cache: under tox pytest would put it in one place for all."""
    os.environ.pop("TOX_ENV_DIR", None)


@pytest.fixture(scope="session")
def byte_code(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile the package once, as where it is installed: most runs in these tests may not write.

    It takes a run, for pytest has byte code of its own for what may have asserts to rewrite.
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
