"""Settings and fixtures shared by all tests."""

from __future__ import annotations

import compileall
import os
import shutil
import tempfile
import zlib
from pathlib import Path

import pytest

from tests.leftovers import own_temporary_folder  # noqa: F401

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]


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
def byte_code() -> None:
    """Compile the package, as if it were installed; most test runs may not write byte code."""
    assert compileall.compile_dir(ROOT / "pytest_plan", quiet=1)
