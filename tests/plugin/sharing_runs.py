"""Runs of a project that share an environment, each in a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pytest_plan.sharing.protocol import Store
from pytest_plan.sharing.urls import open_store
from tests.plugin.project import Project

ARGV = [sys.executable, "-m", "pytest", "-p", "pytest_plan"]
STEPS = """
from pathlib import Path
import time

HERE = Path(__file__).parent

def held(name):
    "Wait until the test creates the file, if this process is to wait for it."
    if os.environ.get("HELD", "") == name:
        HERE.joinpath(f"{name}.reached").touch()
        while not HERE.joinpath(name).exists():
            time.sleep(0.02)

@pytest.mark.plan_step
def net(ctx, state):
    note("net")
    held("step")
    ctx.setenv("NET", "there")
    state["count"] = 0
    yield {"pid": os.getpid()}
    note("clean", ctx.reason, state["count"])

@pytest.mark.plan_step
def db(net):
    if os.environ.get("BROKEN"):
        print("last words of db")
        raise ValueError("no disk")
    return Path("db") / str(net["pid"])
"""
TESTS = """
import conftest

def test_one(db, net, plan):
    conftest.held("test")
    assert db == conftest.Path("db") / str(net["pid"]) and os.environ["NET"] == "there"
    for _ in range(10):
        with plan.state.lock("count"):
            plan.state["count"] += 1

def test_two(net):
    assert not os.environ.get("RED")
"""


class Runs:
    """Starts runs that share an environment; all of them are killed when the test ends."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self.before: list[str] = []  # begins each command line
        self.variables: dict[str, str] = {}
        self.share = ["--plan-share", "local"]
        self.all: list[subprocess.Popen[str]] = []

    def __call__(self, *args: str, **variables: str) -> subprocess.Popen[str]:
        """Start a run; its standard error is part of its output."""
        run = subprocess.Popen(
            [*self.before, *ARGV, *self.share, *args], cwd=self._project.path, text=True,
            env={**os.environ, **self.variables, **variables},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.all.append(run)
        return run

    def held(self, where: str, *args: str, **variables: str) -> subprocess.Popen[str]:
        """Start a run, and wait until it holds at the place `where`."""
        run = self(*args, HELD=where, **variables)
        file = self._project.path / f"{where}.reached"
        while not file.exists():
            assert run.poll() is None, run.communicate()
        file.unlink()
        return run

    def release(self, where: str) -> None:
        """Let the runs go on that hold at a place."""
        (self._project.path / where).touch()


@pytest.fixture
def runs(project: Project) -> Iterator[Runs]:
    """Return what starts runs of a project with two steps and two tests."""
    project.steps(STEPS)
    project.tests(TESTS)
    runs = Runs(project)
    yield runs
    for run in runs.all:
        if run.poll() is None:
            run.kill()
            run.communicate()


@contextlib.contextmanager
def opened(project: Project) -> Iterator[Store]:
    """Open the store of the project's machine."""
    store = open_store("local", project.path / ".pytest_plan")
    try:
        yield store
    finally:
        store.shut()


def ended(run: subprocess.Popen[str], status: int = 0) -> str:
    """Wait for the end of a run, check its exit status, and return the rest of its output."""
    said, _ = run.communicate(timeout=60)
    assert run.returncode == status, said
    assert "Traceback" not in said, said
    assert "INTERNALERROR" not in said, said
    return said


def nothing_left(project: Project) -> None:
    """Check that neither a journal nor a member is left."""
    left = project.path / ".pytest_plan"
    assert not list(left.glob("environments/*")), list(left.rglob("*"))
    assert not list(left.glob("shared/members/*"))
