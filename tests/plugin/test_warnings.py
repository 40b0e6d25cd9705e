"""Warnings of steps: they reach pytest's summary, as those of tests and fixtures do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_plan.engine.processes.identity import identify
from tests.plugin.project import Project

WORKERS = pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["solo", "two"])
WARNING = """
import warnings

@pytest.mark.plan_step
def db():
    warnings.warn("from exec", UserWarning)
    yield 1
    warnings.warn("from cleanup", DeprecationWarning)
"""
STRANGER = """
import os, socket, sys, time
if os.fork():
    os._exit(0)
os.setsid()
server = socket.create_server(("127.0.0.1", 0))
with open(sys.argv[1] + ".new", "w") as file:
    print(os.getpid(), server.getsockname()[1], file=file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(60)
"""


class TestSummary:
    """The warnings summary."""

    @WORKERS
    def test_warnings_of_a_step_and_its_cleanup_are_in_it(
        self, project: Project, workers: tuple[str, ...]
    ) -> None:
        """They come from the thread of the step, in the process that runs the plan."""
        project.steps(WARNING)
        project.tests("def test_it(db): pass")
        result = _run(project, *workers)
        result.stdout.fnmatch_lines(["*warnings summary*"])
        result.stdout.fnmatch_lines(["*UserWarning: from exec*"])
        result.stdout.fnmatch_lines(["*DeprecationWarning: from cleanup*"])
        result.assert_outcomes(passed=1, warnings=2)

    def test_the_filters_of_the_user_apply(self, project: Project) -> None:
        """A warning that is ignored is not shown; one that is an error fails the step."""
        project.steps(WARNING)
        project.tests("def test_it(db): pass")
        _run(project, "-W", "ignore:from").assert_outcomes(passed=1, warnings=0)
        result = _run(project, "-W", "error:from exec")
        assert result.ret == 1
        result.stdout.fnmatch_lines(["*plan step 'db'*UserWarning: from exec*"])

    def test_without_pytests_own_plugin_nothing_is_caught(self, project: Project) -> None:
        """With `-p no:warnings` Python handles them itself."""
        project.steps(WARNING)
        project.tests("def test_it(db): pass")
        result = _run(project, "-p", "no:warnings")
        result.assert_outcomes(passed=1, warnings=0)
        result.stdout.no_fnmatch_line("*warnings summary*")


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """The pid and the port of a server outside the plan."""
    file = tmp_path / "stranger"
    subprocess.run([sys.executable, "-c", STRANGER, str(file)], check=True)
    deadline = time.monotonic() + 20
    while not file.exists():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)
    pid, port = map(int, file.read_text().split())
    yield pid, port
    identify(pid).send_signal(signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who listens")
@WORKERS
def test_a_stranger_on_a_port_is_in_the_summary(
    project: Project, workers: tuple[str, ...], stranger: tuple[int, int]
) -> None:
    """The warning names the process, the port and the step."""
    pid, port = stranger
    project.steps(f"""
        @pytest.mark.plan_step
        def web(ctx):
            ctx.start(["sh", "-c", "sleep 60", "{port}"])
            ctx.wait_until(lambda: True)
    """)
    project.tests("def test_it(plan, web): pass")
    result = _run(project, *workers)
    result.assert_outcomes(passed=1, warnings=1)
    text = " ".join(result.stdout.str().split())
    assert f"(pid {pid}) already listens on port {port}; it may answer in place of 'sh'" in text
    assert "which step 'web' has started" in text


def _run(project: Project, *args: str | os.PathLike[str]) -> pytest.RunResult:
    # These warnings are no errors, unlike those of `Project.run`.
    return project.pytester.runpytest_subprocess("-p", "pytest_plan", *args)
