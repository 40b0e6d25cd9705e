"""A journal that is lost during a run is written again, and the reaper finds it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_plan.engine.processes.identity import identify
from tests.plugin.project import ROOT, Project

LONGEST = 40.0  # real seconds that another process may take
PARTS = """
    import pathlib, shutil, time

    WORKERS = False
    FOLDER = pathlib.Path(".pytest_plan").absolute()

    def wait_for(done):
        end = time.monotonic() + 30
        while not done():
            assert time.monotonic() < end, "it took too long"
            time.sleep(0.01)

    def journals():
        return [path for path in FOLDER.glob("environments/*/journal.sqlite") if path.is_file()]

    def inode():
        (found,) = FOLDER.glob("environments/*/journal.sqlite")
        return found.stat().st_ino

    def is_followed():
        "Whether the reaper has opened the journal that is in its place now."
        owner = os.getppid() if WORKERS else os.getpid()
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == owner and "watchdog.py" in (process / "cmdline").read_text():
                    files = map(os.readlink, (process / "fd").iterdir())
                    return any(file in map(str, journals()) for file in files)
            except OSError:
                pass
        return False

    def by_rmtree():
        shutil.rmtree(FOLDER)

    def by_unlink():
        journals()[0].unlink()

    def by_log():
        path = journals()[0]
        path.with_name("journal.sqlite-wal").unlink()

    def by_rename():
        path = journals()[0]
        path.rename(path.with_name("other"))

    def by_garbage():
        path = journals()[0]
        new = path.with_name("new")
        new.write_text("garbage" * 1000)
        new.replace(path)

    def by_truncation():
        os.truncate(journals()[0], 0)

    def by_link():
        path = journals()[0]
        path.rename("moved")
        path.symlink_to(pathlib.Path("moved").absolute())

    def by_moving():
        FOLDER.rename("moved")

    def by_copy():
        FOLDER.rename("moved")
        shutil.copytree("moved", FOLDER)
"""
STEPS = """
    def undo(what): note("undo", what)

    def clean(value): note("clean", value)

    @pytest.mark.plan_step(cleanup=clean)
    def server(ctx):
        ctx.defer(undo, "server")
        note("tmp", ctx.tmp_path)
        note("pid", ctx.start(["sleep", "600"]).pid)
        return "server"
"""
WAYS = ["rmtree", "unlink", "log", "rename", "garbage", "truncation", "link", "moving", "copy"]
SAID = "the journal of this run was removed or replaced; it has been written again"


def wait_until(done: Callable[[], bool]) -> None:
    """Wait until a condition holds that depends on another process."""
    deadline = time.monotonic() + LONGEST
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def started(project: Project) -> dict[str, str]:
    """Return what the step has noted, by its first word."""
    return dict(line.split(" ", 1) for line in project.calls)


def nothing_is_left(project: Project) -> None:
    """Wait until the reaper has ended the program, run the hooks once and removed the folders."""
    noted = started(project)
    program = identify(int(noted["pid"]))
    wait_until(lambda: not program.is_alive())
    wait_until(lambda: project.calls[-2:] == ["clean server", "undo server"])
    assert project.calls.count("clean server") == 1
    wait_until(lambda: not Path(noted["tmp"]).parent.exists())
    wait_until(lambda: not list(project.path.glob(".pytest_plan/environments/run-*/lock")))
    wait_until(lambda: not list(Path(tempfile.gettempdir()).glob("plan-journal-*")))


def cleanup_command_is_content(project: Project) -> None:
    """Check that `pytest --plan-cleanup` finds nothing that is left."""
    argv = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "--plan-cleanup"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        argv, cwd=project.path, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "nothing is left" in done.stdout


@pytest.mark.parametrize("workers", [(), ("-n", "1", "-p", "xdist")], ids=["solo", "worker"])
@pytest.mark.parametrize("way", WAYS)
def test_it_is_written_again_and_the_reaper_finds_it(
    project: Project, way: str, workers: tuple[str, ...]
) -> None:
    """Within 2 s, without another step; after SIGKILL the reaper cleans up all the same."""
    project.steps(STEPS)
    project.tests(
        PARTS
        + f"""
    WORKERS = {bool(workers)}

    def test_loses(server):
        before = inode()
        by_{way}()
        begun = time.monotonic()
        wait_for(lambda: journals() and inode() != before)
        wait_for(is_followed)
        assert time.monotonic() - begun < 5
        note("again", oct(journals()[0].stat().st_mode & 0o777))

    def test_is_killed(server):
        pid = os.getppid() if WORKERS else os.getpid()
        os.kill(pid, {signal.SIGKILL})
        time.sleep(30)
    """
    )
    result = project.run_apart("-s", *workers)
    assert result.ret == -signal.SIGKILL
    assert started(project)["again"] == "0o600"
    if not workers:
        assert f"plan: {SAID}: " in result.stdout.str()
    nothing_is_left(project)
    cleanup_command_is_content(project)


@pytest.mark.parametrize("way", ["rmtree", "rename", "garbage", "moving", "copy"])
def test_a_run_that_is_killed_at_once_is_cleaned_up(project: Project, way: str) -> None:
    """The reaper has the files of the journal open, and writes it again itself."""
    project.steps(STEPS)
    project.tests(
        PARTS
        + f"""
    def test_loses(server):
        by_{way}()
        os.kill(os.getpid(), {signal.SIGKILL})
    """
    )
    assert project.run_apart().ret == -signal.SIGKILL
    nothing_is_left(project)


def test_it_may_be_lost_twice(project: Project) -> None:
    """Each loss is reported, and the last journal counts."""
    project.steps(STEPS)
    project.tests(
        PARTS
        + f"""
    def test_loses(server):
        for _ in range(2):
            by_rmtree()
            wait_for(is_followed)

    def test_is_killed(server):
        by_rmtree()
        os.kill(os.getpid(), {signal.SIGKILL})
    """
    )
    result = project.run_apart()
    assert result.stdout.str().count(SAID) == 2
    nothing_is_left(project)


@pytest.mark.parametrize("way", ["file", "link", "mode", "project"])
def test_a_place_that_cannot_be_used_any_more(project: Project, way: str) -> None:
    """The journal moves to the temporary folder, or the mode of the folder is repaired."""
    project.steps(STEPS)
    project.tests(
        PARTS
        + f"""
    def other_place():
        import tempfile
        return list(pathlib.Path(tempfile.gettempdir()).glob(
            "plan-journal-*/environments/*/journal.sqlite"))

    def test_loses(server):
        if {way!r} == "mode":
            FOLDER.chmod(0o777)
            journals()[0].chmod(0o644)
            wait_for(lambda: FOLDER.stat().st_mode & 0o777 == 0o755 and
                             journals()[0].stat().st_mode & 0o777 == 0o600)
            return
        FOLDER.rename("moved")
        if {way!r} == "file":
            FOLDER.touch()
        elif {way!r} == "link":
            FOLDER.symlink_to(pathlib.Path("moved").absolute())
        elif {way!r} == "project":
            pathlib.Path("moved").rename(FOLDER)
            FOLDER.parent.rename(FOLDER.parent.with_name("renamed"))
        wait_for(other_place)
        if {way!r} == "project":
            FOLDER.parent.with_name("renamed").rename(FOLDER.parent)

    def test_passes(server): pass
    """
    )
    result = project.run_apart("-p", "no:cacheprovider")
    assert result.ret == 0, result.stdout.str()
    assert ("was changed; it is repaired" if way == "mode" else SAID) in result.stdout.str()
    assert project.calls[-2:] == ["clean server", "undo server"]
    assert not list(Path(tempfile.gettempdir()).glob("plan-*"))


def test_a_removed_lock_is_locked_again(project: Project) -> None:
    """So another process still sees at once that the environment is in use."""
    project.steps(STEPS)
    project.tests(
        PARTS
        + """
    def test_loses(server):
        import fcntl
        lock = journals()[0].with_name("lock")
        lock.unlink()
        wait_for(lock.exists)

        def is_taken():
            with lock.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
            return False

        wait_for(is_taken)
    """
    )
    result = project.run_apart()
    assert result.ret == 0, result.stdout.str()
    assert "was changed; it is repaired" in result.stdout.str()


@pytest.mark.parametrize("when", ["exec", "cleanup"])
def test_steps_go_on(project: Project, when: str) -> None:
    """A journal that is lost while steps are provisioned or cleaned up stops neither."""
    project.steps(
        PARTS,
        f"""
    def lose(when):
        if when == {when!r}: by_rmtree()
        note(when)

    @pytest.mark.plan_step(cleanup=lambda: lose("cleanup"))
    def first(): lose("exec")

    @pytest.mark.plan_step(cleanup=lambda: note("cleanup of second"))
    def second(first, ctx):
        ctx.defer(os.getpid)
        note("second")
    """,
    )
    project.tests("def test(second, first): note('test')")
    result = project.run_apart()
    assert result.ret == 0, result.stdout.str()
    assert project.calls == ["exec", "second", "test", "cleanup of second", "cleanup"]
    assert not (project.path / ".pytest_plan" / "environments").exists()
    assert SAID in result.stdout.str()
