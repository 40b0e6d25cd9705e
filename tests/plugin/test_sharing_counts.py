"""Runs that other runs count on, although they have no test to run."""

from __future__ import annotations

import signal

import pytest

from pytest_plan.steps.servers import redis
from tests.plugin.project import Project, until
from tests.plugin.sharing_runs import STEPS, Runs, ended, nothing_left
from tests.sharing.servers import missing, redis_server

UNKNOWN = """
if "TYPO" in os.environ:
    @pytest.mark.plan_step(needs=("nett",))
    def typo():
        pass
"""


def test_runs_that_cannot_test_are_counted(runs: Runs, project: Project) -> None:
    """The owner does not wait for runs without tests, or whose collection or steps are broken."""
    project.steps(STEPS, UNKNOWN)
    project.write("test_broken.py", "def")
    count = ("--plan-share-runs", "5")
    owner = runs.held("step", *count, "test_it.py")
    empty = runs(*count, "test_it.py", "-k", "nothing")
    broken = runs(*count, "test_broken.py")
    workers = runs(*count, "-p", "xdist", "-n1", "test_broken.py")
    typo = runs(*count, "test_it.py", TYPO="1")
    said = ended(empty, 5)
    assert "and this run uses it" in said
    assert "this run waits" not in said
    said = ended(broken, 2)
    assert "Run failed. Tests: 1 error in collection" in said
    assert "this run waits" not in said
    assert "this run waits" not in ended(workers, 1)
    said = ended(typo, 4)
    assert "needs an unknown step 'nett'" in said
    assert "the owner of 'default' does not wait for this run" in said
    runs.release("step")
    ended(owner)
    assert project.calls == ["net", "clean failure 10"]
    nothing_left(project)


def test_a_run_with_a_broken_collection_can_be_the_owner(runs: Runs, project: Project) -> None:
    """If it is the first, it provisions for the others and waits for them; it fails anyway."""
    project.write("test_broken.py", "def")
    count = ("--plan-share-runs", "2")
    broken = runs(*count, "test_broken.py")
    until(broken, "cleanup waits")
    assert "2 passed" in ended(runs(*count, "test_it.py"))
    assert "1 error" in ended(broken, 2)
    assert project.calls == ["net", "clean failure 10"]


def test_an_environment_that_begins_again_waits_for_the_runs_that_are_left(
    runs: Runs, project: Project
) -> None:
    """Ctrl-C ends the wait for runs that have not joined; a repeated job waits for none."""
    if why := missing(redis.KIND):
        pytest.skip(why)
    with redis_server() as server:
        runs.share = ["--plan-environment", "build-7"]
        url = {"PYTEST_PLAN_SHARE": server.url, "CI_NODE_TOTAL": "3"}
        first = runs(**url)
        until(first, "1 of 3 runs have joined 'build-7': cleanup waits")
        first.send_signal(signal.SIGINT)
        ended(first, 2)
        second = runs.held("test", **url)
        third = runs(**url)
        until(third, "test_it.py")
        runs.release("test")
        said = ended(second) + ended(third)
        assert "was cleaned up" in said
        assert "ago: this run provisions it again" in said
        assert "was cleaned up" in ended(runs(**url))
    assert [call.split()[0] for call in project.calls] == ["net", "clean"] * 3
