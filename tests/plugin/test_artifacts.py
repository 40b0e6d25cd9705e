"""Artifacts: those of the last three runs are kept, and nothing else is ever removed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.plugin.project import ROOT, Project, plan_lines

LONGEST = 40.0  # real seconds that another process may take
STEPS = """
    @pytest.mark.plan_step
    def shop(ctx):
        (ctx.artifacts / "settings").touch()
        return str(ctx.artifacts)
"""
WAITS = """
    import pathlib, time

    def test_waits(shop):
        if "WAITS" in os.environ:
            pathlib.Path("up").write_text(shop)
            end = time.monotonic() + 60
            while not os.path.exists("go") and time.monotonic() < end:
                time.sleep(0.02)
"""


@pytest.fixture
def shop(project: Project) -> Project:
    """A project whose step makes an artifact, and whose test waits if it is told to."""
    project.steps(STEPS)
    project.tests(WAITS)
    return project


@pytest.fixture
def long_run(shop: Project) -> Iterator[Callable[..., Path]]:
    """Starts a run that lives until the file `go` exists; returns its folder for artifacts."""
    runs: list[subprocess.Popen[bytes]] = []

    def start(*args: str) -> Path:
        argv = [sys.executable, "-m", "pytest", "-p", "pytest_plan", *args]
        variables = {**os.environ, "WAITS": "1", "PYTHONPATH": str(ROOT)}
        runs.append(subprocess.Popen(argv, cwd=shop.path, env=variables))
        wait_until((shop.path / "up").exists)
        return Path((shop.path / "up").read_text()).parent

    yield start
    (shop.path / "go").touch()
    assert [run.wait(LONGEST) for run in runs] == [0] * len(runs)


def wait_until(done: Callable[[], bool]) -> None:
    """Wait until a condition holds that depends on another process."""
    deadline = time.monotonic() + LONGEST
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def artifacts(project: Project) -> set[str]:
    """Return the names of the folders of runs."""
    return {path.name for path in (project.path / ".pytest_plan" / "artifacts").iterdir()}


def test_the_last_three_runs_are_kept(shop: Project) -> None:
    """The oldest are removed, without a word."""
    seen: list[set[str]] = []
    for _ in range(5):
        result = shop.run()
        assert result.ret == 0
        seen.append(artifacts(shop))
    assert [len(names) for names in seen] == [1, 2, 3, 3, 3]
    assert not seen[4] & seen[1]
    assert not any("left" in line for line in plan_lines(result))


@pytest.mark.parametrize("workers", [(), ("-n", "2", "-p", "xdist")], ids=str)
def test_those_of_a_living_run_are_kept(
    shop: Project, long_run: Callable[..., Path], workers: tuple[str, ...]
) -> None:
    """However many runs begin and end in the meantime."""
    folder = long_run(*workers)
    for _ in range(4):
        assert shop.run().ret == 0
    assert (folder / "shop" / "settings").exists()
    assert len(artifacts(shop)) == 4


def test_those_of_a_killed_run_are_removed_in_their_turn(shop: Project) -> None:
    """Its process has ended, although it could not say so."""
    shop.tests("import signal\ndef test_dies(shop): os.kill(os.getpid(), signal.SIGKILL)")
    assert shop.run_apart("-o", "plan_reaper=false").ret != 0
    (killed,) = artifacts(shop)
    shop.tests(WAITS)
    for _ in range(3):
        shop.run()
    assert killed not in artifacts(shop)
    assert len(artifacts(shop)) == 3


def test_those_of_a_kept_environment_are_kept(shop: Project) -> None:
    """Until it is cleaned up, and only those of the runs that have provisioned a kept step."""
    assert shop.run("--plan-keep", "always").ret == 0
    (first,) = artifacts(shop)
    shop.steps(STEPS, "@pytest.mark.plan_step\ndef extra(ctx, shop): ctx.log('extra')")
    shop.tests("def test_it(extra): pass")
    assert shop.run("--plan-reuse").ret == 0
    (second,) = artifacts(shop) - {first}
    for _ in range(5):
        assert shop.run("--plan-reuse").ret == 0
        assert shop.run().ret == 0
    assert {first, second} < artifacts(shop)
    assert len(artifacts(shop)) == 5
    shop.steps(STEPS, "@pytest.mark.plan_step\ndef extra(ctx, shop): ctx.log('changed')")
    for _ in range(4):
        assert shop.run("--plan-reuse").ret == 0
        assert shop.run().ret == 0
    assert first in artifacts(shop)
    assert second not in artifacts(shop)
    assert shop.run("--plan-cleanup").ret == 0
    shop.run()
    assert first not in artifacts(shop)
    assert len(artifacts(shop)) == 3


def test_a_link_to_a_folder_of_the_users_is_not_used(shop: Project) -> None:
    """One warning gives the reason; nothing is written or removed behind the link."""
    precious = [shop.path / "precious" / f"project{number}" for number in range(6)]
    for folder in precious:
        folder.mkdir(parents=True)
    (shop.path / ".pytest_plan").mkdir(0o700)
    (shop.path / ".pytest_plan" / "artifacts").symlink_to("../precious")
    for _ in range(2):
        result = shop.pytester.runpytest_subprocess("-p", "pytest_plan")
        assert result.ret == 0
        assert "artifacts is a symbolic link" in result.stdout.str()
        assert "1 warning" in result.stdout.str()
    assert sorted((shop.path / "precious").iterdir()) == precious


@pytest.mark.parametrize("mark", ["nothing", "copied marker"])
def test_what_others_have_made_is_left_and_reported(shop: Project, mark: str) -> None:
    """In a `plan_dir` that was there before, with folders of the same names as ours."""
    shop.write("pytest.ini", "[pytest]\nplan_dir = build\n")
    build = shop.path / "build"
    (build / "environments" / "run-1").mkdir(parents=True)
    (build / "environments" / "run-1" / "results").touch()
    for folder in (build, build / "environments"):
        folder.chmod(0o755)
    shop.run()
    (made,) = (build / "artifacts").iterdir()
    for number in range(4):
        old = build / "artifacts" / f"old{number}"
        old.mkdir()
        if mark == "copied marker":
            (old / ".pytest-plan").write_bytes((made / ".pytest-plan").read_bytes())
        os.utime(old, (number, number))
    result = shop.run()
    assert result.ret == 0
    (line,) = (line for line in plan_lines(result) if "left" in line)
    assert line.startswith("plan: 4 entries of ")
    assert len(list((build / "artifacts").glob("old*"))) == 4
    assert (build / "environments" / "run-1" / "results").exists()
    assert not (build / ".gitignore").exists()
    assert {*os.listdir(build)} == {"artifacts", "environments", "history"}


def test_an_empty_plan_dir_of_the_users_is_not_removed(shop: Project) -> None:
    """Only a folder that the plugin has created is removed at the end of a run."""
    (shop.path / "build").mkdir(0o700)
    shop.steps("@pytest.mark.plan_step\ndef shop(): return 'shop'")
    options = ("-o", "plan_dir=build", "-o", "plan_record_history=false")
    assert shop.run(*options).ret == 0
    assert os.listdir(shop.path / "build") == []


def test_the_plan_dir_is_ignored_by_git_while_the_run_lives(
    shop: Project, long_run: Callable[..., Path]
) -> None:
    """And by tools that skip caches."""
    long_run()
    made = {path.name for path in (shop.path / ".pytest_plan").iterdir()}
    assert made == {".gitignore", "CACHEDIR.TAG", "artifacts", "environments"}
