"""Environments that were kept on another host: a CI cache or a copy, with the key given."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.engine.support.journals import sealing
from tests.plugin.project import Project, plan_lines
from tests.plugin.test_recovery import clean_up, journals

STEPS = """
    from pathlib import Path

    DATA = Path(os.environ["DATA"])

    def erase(value):
        note("erase", Path(value).name)
        Path(value).unlink()

    @pytest.mark.plan_step(cleanup=erase, alive=lambda value: Path(value).exists())
    def bucket():
        note("bucket up")
        (DATA / "bucket").write_text("here")
        return str(DATA / "bucket")

    @pytest.mark.plan_step(cleanup=erase)
    def table(bucket):
        note("table up")
        (DATA / "table").write_text("here")
        return str(DATA / "table")

    @pytest.mark.plan_step
    def server(ctx, bucket):
        note("server up")
        return ctx.start(["sleep", "600"]).pid

    @pytest.mark.plan_step(cleanup=erase, alive=lambda value: Path(value).exists(), needs=())
    def agent(ctx):
        note("agent up")
        ctx.start(["sleep", "600"])
        (DATA / "agent").write_text("here")
        return str(DATA / "agent")
"""
TESTS = "def test_it(bucket, table, server, agent): note('test')"
REASON = "it was kept on another host or in another container, and has no alive hook"
WORKERS = pytest.mark.parametrize("args", [(), ("-n", "2", "-p", "xdist")], ids=["solo", "workers"])


@pytest.fixture
def kept(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """An environment as a CI cache restores it on a host other than the one that has kept it.

    Yields the pids of its programs. They run on the other host, so nothing here may end them.
    """
    monkeypatch.setenv("PYTEST_PLAN_KEY", "1" * 64)
    monkeypatch.setenv("DATA", str(project.path / "data"))
    (project.path / "data").mkdir()
    project.steps(STEPS)
    project.tests(TESTS)
    project.run_apart("--plan-keep", "always").assert_outcomes(passed=1)
    (project.path / "calls.txt").unlink()
    (file,) = journals(project)
    shutil.copytree(file.parent, file.parent.with_name("copy"))
    shutil.rmtree(file.parent)
    file.parent.with_name("copy").rename(file.parent)
    pids = moved(file)
    yield pids
    clean_up(project)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def moved(file: Path) -> list[int]:
    """Let a journal be one of another host; return the pids of the programs in it."""
    owner = {"pid": 1, "birth": "1", "boot": "other"}
    with sealing(file) as connection:
        for fact, value in (("host", "builder-7"), ("owner", owner)):
            row = (json.dumps(value), fact)
            connection.execute("UPDATE environment SET value = ? WHERE key = ?", row)
        trees = list(connection.execute("SELECT number, data FROM undo WHERE kind = 'tree'"))
        for number, data in trees:
            row = (json.dumps({**json.loads(data), "boot": "other"}), number)
            connection.execute("UPDATE undo SET data = ? WHERE number = ?", row)
    file.chmod(0o644)
    file.parent.chmod(0o755)
    return [json.loads(data)["pid"] for _, data in trees]


def are_running(pids: list[int]) -> bool:
    """Return whether all these processes are running."""
    return bool(pids) and all(psutil.pid_exists(pid) for pid in pids)


@WORKERS
def test_steps_with_an_alive_hook_are_reused(
    project: Project, kept: list[int], args: tuple[str, ...]
) -> None:
    """The others are rebuilt, because nothing shows that they are there."""
    result = project.run_apart("--plan-reuse", *args)
    result.assert_outcomes(passed=1)
    lines = plan_lines(result)
    assert "plan: environment 'default' was kept on builder-7, T ago" in lines
    assert f"plan: table is rebuilt: {REASON}" in lines
    assert f"plan: server is rebuilt: {REASON}" in lines
    assert project.calls[0] == "erase table"
    assert sorted(project.calls[1:]) == ["server up", "table up", "test"]
    assert are_running(kept)


def test_the_next_run_reuses_all(project: Project, kept: list[int]) -> None:
    """What was rebuilt is of this host, and the programs of the others are not expected here."""
    project.run_apart("--plan-reuse").assert_outcomes(passed=1)
    (project.path / "calls.txt").unlink()
    result = project.run_apart("--plan-reuse")
    result.assert_outcomes(passed=1)
    assert not any("was kept on" in line for line in plan_lines(result))
    assert project.calls == ["test"]
    assert clean_up(project).ret == 0
    assert sorted(project.calls) == ["erase agent", "erase bucket", "erase table", "test"]
    assert are_running(kept)


def test_what_is_gone_does_not_stop_the_run(project: Project, kept: list[int]) -> None:
    """Here nothing of it is left: each cleanup is tried once, and a failure is one line."""
    shutil.rmtree(project.path / "data")
    (project.path / "data").mkdir()
    result = project.run_apart("--plan-reuse")
    result.assert_outcomes(passed=1)
    (line,) = [line for line in plan_lines(result) if line.startswith("plan:   table  gone")]
    assert "FileNotFoundError" in line
    rebuilt = ["agent up", "bucket up", "server up", "table up", "test"]
    assert sorted(call for call in project.calls if "erase" not in call) == rebuilt
    assert are_running(kept)


def test_cleanup_ends_no_process_of_this_host(project: Project, kept: list[int]) -> None:
    """The pids in the journal are those of the other host."""
    assert clean_up(project).ret == 0
    assert sorted(project.calls) == ["erase agent", "erase bucket", "erase table"]
    assert are_running(kept)
    assert journals(project) == []


def test_a_checkout_in_another_folder_is_reused(
    project: Project, kept: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a CI system that gives each job a folder."""
    other = project.path / "job-2"
    other.mkdir()
    for path in ("calls.py", "conftest.py", "test_it.py"):
        shutil.copy(project.path / path, other)
    shutil.move(project.path / ".pytest_plan", other)
    monkeypatch.chdir(other)
    monkeypatch.setenv("PYTHONPATH", f"{other}{os.pathsep}{os.environ['PYTHONPATH']}")
    result = project.run_apart("--plan-reuse")
    result.assert_outcomes(passed=1)
    calls = (other / "calls.txt").read_text().splitlines()
    assert calls[0] == "erase table"
    assert sorted(calls[1:]) == ["server up", "table up", "test"]
    assert clean_up(project).ret == 0
