"""Terminals that cannot show every sign: Windows-1252, ASCII."""

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
# Each sign that cannot be shown becomes an escape, and nothing else does.
SAID = {
    "cp1252": r"RuntimeError: no ö, no \u2192 C:\new",
    "ascii": r"RuntimeError: no \xf6, no \u2192 C:\new",
}
LOGGED = {"cp1252": "second ö line", "ascii": r"second \xf6 line"}
encodings = pytest.mark.parametrize("encoding", ["cp1252", "ascii"])


def lines(project: Project, encoding: str, *args: str, status: int = 1) -> list[str]:
    """Return what a run prints to a terminal of that encoding."""
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
def test_only_what_cannot_be_shown_is_escaped(
    project: Project, encoding: str, args: list[str]
) -> None:
    """Lines stay lines and backslashes stay as they are: the report can be read."""
    project.steps(STEPS)
    project.tests("def test_it(db): pass")
    found = lines(project, encoding, *args)
    said = SAID[encoding]
    live = [line for line in found if line.startswith("plan: db  FAILED")]
    assert [line.endswith(f"s  {said}") for line in live] == [True]
    assert f"E       {said}" in found
    log = found.index(r"first \u2192 line", found.index(f"E       {said}"))
    assert found[log + 1] == LOGGED[encoding]
    assert f"1 test blocked: plan step 'db' failed: {said}" in found


@encodings
def test_names_of_tests_are_shown_with_the_plan(project: Project, encoding: str) -> None:
    """`--plan-show` prints what there is, whatever it is called."""
    project.steps("@pytest.mark.plan_step\ndef db(): pass")
    project.tests("def test_it(db): pass", name="test_→.py")
    found = lines(project, encoding, "--plan-show", status=0)
    assert r"  test_\u2192.py::test_it" in found


@encodings
def test_failed_cleanup_and_asked_for_lines(project: Project, encoding: str) -> None:
    """What is told later is told in the same way: the cleanup, a line for each blocked test."""
    project.steps(
        STEPS, "@pytest.mark.plan_step(needs=())\ndef net():\n    yield\n    1 / len('\u2192')[0]"
    )
    project.tests("@pytest.mark.plan('net', 'db')\ndef test_it(): pass")
    found = lines(project, encoding, "-rA")
    assert r">       1 / len('\u2192')[0]" in found
    said = f"BLOCKED test_it.py::test_it - plan step 'db' failed: {SAID[encoding]}"
    assert said in found
