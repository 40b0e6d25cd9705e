"""Settings and fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import pytest

from tests.leftovers import own_temporary_folder  # noqa: F401

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
_STEP = """
import pytest

@pytest.mark.plan_step
def made(): return "made"
"""


def pytest_configure(config: pytest.Config) -> None:
    """Prevent runs from sharing a cache: under tox pytest would use one place for all of them.

    Give the tests a state folder of their own, which the workers share, for the key of journals.
    """
    os.environ.pop("TOX_ENV_DIR", None)
    if not hasattr(config, "workerinput"):
        folder = tempfile.mkdtemp(prefix="state")
        os.environ["XDG_STATE_HOME"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mix the files, so that tests that wait run beside tests that compute, in every run alike."""
    items.sort(key=lambda item: zlib.crc32(bytes(item.path.relative_to(ROOT))))


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
