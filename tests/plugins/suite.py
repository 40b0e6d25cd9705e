"""The suite that every plugin is tried on: two steps, one of which can fail, and their tests."""

from __future__ import annotations

import enum
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

STEP, CLEANUP, BLOCKED = "conftest.py::shop", "conftest.py::machine", "test_shop.py::test_order"
STEP_ERROR, CLEANUP_ERROR = "the shop is closed", "the machine does not stop"
PRINTED = "the shop opens at nine"  # what the step that fails has printed before

_CONFTEST = f"""
import os
import pytest

@pytest.mark.plan_step
def machine():
    yield "m-1"
    if os.environ["FAULT"] == "cleanup":
        raise RuntimeError("{CLEANUP_ERROR}")

@pytest.mark.plan_step
def shop(machine):
    print("{PRINTED}")
    if os.environ["FAULT"] == "step":
        raise RuntimeError("{STEP_ERROR}")
    return "shop"
"""
_TESTS = """
def test_order(shop):
    assert shop == "shop"

def test_machine(machine):
    assert machine == "m-1"
"""


class Fault(enum.StrEnum):
    """What goes wrong in a run of the suite."""

    NONE = "none"
    STEP = "step"
    CLEANUP = "cleanup"


@dataclass(frozen=True, slots=True)
class Ended:
    """A run of the suite that has ended.

    Attributes:
        folder: the folder of the suite, with the files that plugins have written.
        status: the exit status of pytest.
        output: standard output and standard error.
    """

    folder: Path
    status: int
    output: str = field(repr=False)

    def read(self, name: str) -> str:
        """Return the text of a file of the suite."""
        return (self.folder / name).read_text(encoding="utf-8")


def write(folder: Path, files: Mapping[str, str], *, conftest: str = "", ini: str = "") -> None:
    """Write the suite to a folder.

    Args:
        folder: an empty folder.
        files: more files, by name.
        conftest: what to append to the conftest.
        ini: the lines of the ini file.
    """
    written = {
        "pytest.ini": f"[pytest]\n{ini}",
        "conftest.py": _CONFTEST + conftest,
        "test_shop.py": _TESTS,
        **files,
    }
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")


def run(folder: Path, fault: Fault, *args: str) -> Ended:
    """Run the suite with pytest-plan and the plugins in `args`, and no other."""
    hidden = (
        "PYTEST_ADDOPTS",
        "PYTEST_PLUGINS",
        "GITHUB_ACTIONS",
        "GITLAB_CI",
        "CI",
        "TOX_ENV_DIR",
    )
    environ = {name: value for name, value in os.environ.items() if name not in hidden}
    environ |= {
        "FAULT": fault,
        "COLUMNS": "160",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-p", "xdist", "-rA", *args],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return Ended(folder, done.returncode, done.stdout)
