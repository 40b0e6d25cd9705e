"""Terminals that cannot show every character: Windows-1252 and ASCII."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.plugin.project import Project

LONGEST = 60.0
STEPS = r"""
@pytest.mark.plan_step
def db(ctx):
    print("first \u2192 line")
    ctx.log("second \xf6 line")
    raise RuntimeError("no \xf6, no \u2192 C:\\new")
"""
# Only the characters that cannot be shown are escaped.
ERRORS = {
    "cp1252": r"RuntimeError: no ö, no \u2192 C:\new",
    "ascii": r"RuntimeError: no \xf6, no \u2192 C:\new",
}
LOG_LINES = {"cp1252": "second ö line", "ascii": r"second \xf6 line"}
encodings = pytest.mark.parametrize("encoding", ["cp1252", "ascii"])


def lines(project: Project, encoding: str, *args: str, status: int = 1) -> list[str]:
    """Return the lines that a run prints to a terminal with the given encoding."""
    command = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-W", "error", *args]
    done = subprocess.run(
        command, cwd=project.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding},
        timeout=LONGEST, check=False,
    )  # fmt: skip
    text = done.stdout.decode(encoding)
    assert done.returncode == status, text
    assert "INTERNALERROR" not in text
    assert "EncodeError" not in text
    return text.splitlines()


@encodings
@pytest.mark.parametrize("args", [[], ["-v"], ["-s"], ["-p", "xdist", "-n", "1"]])
def test_only_characters_that_cannot_be_shown_are_escaped(
    project: Project, encoding: str, args: list[str]
) -> None:
    """Line breaks and backslashes in the report are not escaped."""
    project.steps(STEPS)
    project.tests("def test_it(db): pass")
    found = lines(project, encoding, *args)
    error = ERRORS[encoding]
    live = [line for line in found if line.startswith("plan: db  FAILED")]
    assert [line.endswith(f"s  {error}") for line in live] == [True]
    assert f"E       {error}" in found
    log = found.index(r"first \u2192 line", found.index(f"E       {error}"))
    assert found[log + 1] == LOG_LINES[encoding]
    blocked = f"1 test blocked: plan step 'db' failed: {error} (conftest.py:"
    assert any(line.startswith(blocked) for line in found)


@encodings
def test_names_of_tests_are_escaped(project: Project, encoding: str) -> None:
    """`--plan-show` escapes the names of tests."""
    project.steps("@pytest.mark.plan_step\ndef db(): pass")
    project.tests("def test_it(db): pass", name="test_→.py")
    found = lines(project, encoding, "--plan-show", status=0)
    assert r"  test_\u2192.py::test_it" in found


@encodings
def test_failed_cleanup_and_blocked_tests(project: Project, encoding: str) -> None:
    """The report of a failed cleanup and the lines of blocked tests are escaped as well."""
    project.steps(
        STEPS, "@pytest.mark.plan_step(needs=())\ndef net():\n    yield\n    1 / len('\u2192')[0]"
    )
    project.tests("@pytest.mark.plan('net', 'db')\ndef test_it(): pass")
    found = lines(project, encoding, "-rA")
    assert r">       1 / len('\u2192')[0]" in found
    blocked = f"BLOCKED test_it.py::test_it - plan step 'db' failed: {ERRORS[encoding]}"
    assert blocked in found
