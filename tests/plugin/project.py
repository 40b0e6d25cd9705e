"""A project on disk, with tests that the plugin's own tests run."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# Variables of the surroundings, which would change what runs of a project print or load.
OUTSIDE = (
    "CI",
    "BUILD_NUMBER",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "NO_COLOR",
    "FORCE_COLOR",
    "PYTEST_PLUGINS",
)
OURS = ("Traceback (most recent call last)", "INTERNALERROR")

_CALLS = """\
'''What the project's steps and tests did, in their order.'''

from pathlib import Path

FILE = Path(__file__).with_name("calls.txt")


def note(*words):
    with FILE.open("a") as file:
        print(*words, file=file)
"""
_CONFTEST_HEAD = """\
import os
import pytest
from calls import note
from pytest_plan import *
"""
_TEST_HEAD = """\
import os
import pytest
from calls import note
"""


class Project:
    """A folder with conftests and tests; its runs load only the plugin, by default.

    Args:
        pytester: creates the folder and runs pytest in it.
    """

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path
        self.write("calls.py", _CALLS)
        pytester.syspathinsert()

    def write(self, name: str, source: str) -> Path:
        """Write a file, and create its folder if necessary."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        return path

    def steps(self, *sources: str, name: str = "conftest.py") -> Path:
        """Write a conftest that imports pytest, os, `note` and the public names."""
        return self.write(name, _CONFTEST_HEAD + "\n\n".join(map(textwrap.dedent, sources)))

    def tests(self, *sources: str, name: str = "test_it.py") -> Path:
        """Write a test module that imports pytest, os and `note`."""
        return self.write(name, _TEST_HEAD + "\n".join(map(textwrap.dedent, sources)))

    def run(self, *args: str | os.PathLike[str]) -> pytest.RunResult:
        """Run pytest in this process; warnings are errors."""
        return self.pytester.runpytest_inprocess("-p", "pytest_plan", "-W", "error", *args)

    def run_apart(self, *args: str | os.PathLike[str]) -> pytest.RunResult:
        """Run pytest in a separate process; warnings are errors."""
        return self.pytester.runpytest_subprocess("-p", "pytest_plan", "-W", "error", *args)

    @property
    def calls(self) -> list[str]:
        """The lines that `note` has written."""
        path = self.path / "calls.txt"
        return path.read_text().splitlines() if path.exists() else []


def refuses(
    result: pytest.RunResult, *texts: str, status: int = pytest.ExitCode.USAGE_ERROR
) -> None:
    """Check that a run was refused with a message containing all of `texts`, and no traceback."""
    said = result.stdout.str() + result.stderr.str()
    assert result.ret == status, said
    for text in texts:
        assert text in said
    for text in OURS:
        assert text not in said


def until(run: subprocess.Popen[str], text: str) -> str:
    """Read the output of a run up to a line that contains `text`; return that line."""
    assert run.stdout is not None
    read = []
    for line in run.stdout:
        read.append(line)
        if text in line:
            return line
    raise AssertionError(f"{text!r} is not in {''.join(read)}")


def plan_lines(result: pytest.RunResult, *, starts: bool = False) -> list[str]:
    """Return the live lines of the plan, with durations replaced by `T`.

    Args:
        result: the result of the run.
        starts: whether the lines about the start of a step are among them.
    """
    lines = (line for line in result.outlines if line.startswith("plan: "))
    return [without_times(line) for line in lines if starts or not line.endswith("  started")]


def without_times(text: str) -> str:
    """Return `text` with every duration replaced by `T`."""
    return re.sub(r"\b(\d+h )?(\d+m )?\d+(\.\d+)?[sm]\b", "T", text)
