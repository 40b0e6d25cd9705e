"""Recovery after SIGKILL: what is cleaned up, what is reported, and what is left alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.journal.reader import read
from pytest_plan.engine.processes.identity import Identity, identify
from tests.engine.support.journals import sealing
from tests.plugin.project import ROOT, Project, plan_lines, refuses

LONGEST = 40.0  # real seconds that another process may take
NO_REAPER = ("-o", "plan_reaper=false")

STEPS = """
    class Web(Step):
        def exec(self, ctx):
            note("web", "up")
            ctx.defer(note, "web", "undo")
            return "url"

        def cleanup(self, ctx, value):
            note("web", "clean", value, ctx.reason)

    def pytest_plan_configure(plan):
        plan.add_step(Web(), name="web")
"""
DIES = """
    import signal

    def test_dies(web):
        os.kill(os.getpid(), signal.SIGKILL)
"""
PASSES = """
    def test_passes(web):
        note("test")
"""


def killed(project: Project, *args: str) -> pytest.RunResult:
    """Run a test that kills pytest, without a reaper; then replace it with a passing test."""
    project.tests(DIES)
    result = project.run_apart(*NO_REAPER, *args)
    assert result.ret == -signal.SIGKILL, result.stdout.str()
    project.tests(PASSES)
    (project.path / "calls.txt").unlink(missing_ok=True)
    return result


def clean_up(project: Project, *args: str) -> pytest.RunResult:
    """Run `pytest --plan-cleanup`."""
    return project.run_apart("--plan-cleanup", *args)


def journals(project: Project) -> list[Path]:
    """Return the journals of all environments."""
    with contextlib.suppress(FileNotFoundError):  # another process may remove the folders
        return sorted((project.path / ".pytest_plan").glob("environments/*/journal.sqlite"))
    return []


def wait_until(done: Callable[[], Any]) -> None:
    """Wait until a condition holds that depends on another process."""
    deadline = time.monotonic() + LONGEST
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


CLEANED = ["web clean url recovery", "web undo"]


class TestCommand:
    """The command `pytest --plan-cleanup`."""

    def test_it_cleans_up_what_a_killed_run_has_left(self, project: Project) -> None:
        """The command says what it cleans up, runs no test, and exits with status 0."""
        project.steps(STEPS)
        killed(project)
        assert len(journals(project)) == 1
        result = clean_up(project)
        assert result.ret == 0
        assert project.calls == CLEANED
        lines = plan_lines(result)
        assert lines[0].startswith("plan: cleaning up environment 'run-")
        assert lines[0].endswith(", left T ago")
        assert lines[1:] == [
            "plan:   web  cleanup succeeded T", "plan: nothing is left of earlier runs",
        ]  # fmt: skip
        assert not (project.path / ".pytest_plan" / "environments").exists()

    def test_a_second_one_does_nothing(self, project: Project) -> None:
        """A second cleanup does nothing."""
        project.steps(STEPS)
        killed(project)
        clean_up(project)
        before = project.calls
        result = clean_up(project)
        assert (result.ret, plan_lines(result)) == (0, ["plan: nothing is left of earlier runs"])
        assert project.calls == before

    def test_a_project_without_steps_has_nothing_to_clean_up(self, project: Project) -> None:
        """In a project without steps the command exits with status 0 and creates nothing."""
        project.tests("def test(): ...")
        assert clean_up(project).ret == 0
        assert list(project.path.glob(".pytest_plan")) == []

    @pytest.mark.parametrize(
        "args",
        [("-n", "4", "-p", "xdist"), ("--junitxml=report.xml",), ("test_it.py::nowhere",),
         ("-x", "-k", "nothing"), ("--collect-only",)],
        ids=str,
    )  # fmt: skip
    def test_it_runs_nothing_else_with_other_options(
        self, project: Project, args: tuple[str, ...]
    ) -> None:
        """With any other options it still starts no worker, runs no test and writes no report."""
        project.steps(STEPS)
        killed(project)
        before = {path.name for path in project.path.iterdir()}
        result = clean_up(project, *args)
        assert (result.ret, project.calls) == (0, CLEANED)
        assert "worker" not in result.stdout.str()
        made = {path.name for path in project.path.iterdir()} - before
        assert {name for name in made if not name.startswith("runpytest")} <= {"calls.txt"}

    def test_addopts_do_not_disturb_it(self, project: Project) -> None:
        """`addopts` with workers and a report do not affect the command."""
        project.write("pytest.ini", "[pytest]\naddopts = -n 4 -p xdist --junitxml=report.xml\n")
        project.steps(STEPS)
        project.tests(DIES)
        project.run_apart(*NO_REAPER, "-p", "xdist", "-n", "0", "-o", "addopts=")
        project.tests(PASSES)
        (project.path / "calls.txt").unlink()
        (project.path / "report.xml").unlink(missing_ok=True)
        assert clean_up(project).ret == 0
        assert project.calls == CLEANED
        assert not (project.path / "report.xml").exists()

    def test_a_failed_cleanup_is_status_1(self, project: Project) -> None:
        """A failed cleanup is reported, its journal is kept, and the exit status is 1."""
        project.steps(STEPS)
        killed(project)
        project.steps(STEPS.replace('note("web", "clean"', 'raise OSError("no route"'))
        result = clean_up(project)
        assert result.ret == 1
        text = result.stdout.str()
        assert "no route" in text
        assert "plan: not everything could be cleaned up: 'run-" in text
        assert len(journals(project)) == 1

    def test_a_bad_option_is_status_4(self, project: Project) -> None:
        """With a bad option nothing is cleaned up."""
        project.steps(STEPS)
        killed(project)
        refuses(
            clean_up(project, "--plan-jobs=many"), "--plan-jobs: 'many' is not a positive integer"
        )
        assert project.calls == []

    def test_an_environment_in_use_is_left_alone(self, project: Project) -> None:
        """An environment whose owner is alive is left alone."""
        project.steps(STEPS)
        project.tests("""
            import subprocess, sys

            def test_other(web):
                note("status", subprocess.call([sys.executable, "-m", "pytest", "-p", "pytest_plan",
                                                "--plan-cleanup"]))
        """)
        result = project.run_apart("-s")
        assert result.ret == 0
        assert "is in use and is left alone" in result.stdout.str()
        assert project.calls == ["web up", "status 0", "web clean url success", "web undo"]


class TestOtherCleaner:
    """Another process is cleaning up when `pytest --plan-cleanup` begins."""

    @pytest.fixture
    def cleaner(self, project: Project) -> Iterator[subprocess.Popen[bytes]]:
        """A process that cleans up until the file `go` exists."""
        project.steps("""
            import time

            def drop(value):
                note("drop")
                end = time.monotonic() + 60
                while not os.path.exists("go") and time.monotonic() < end: time.sleep(0.02)
                note("dropped")

            @pytest.mark.plan_step(cleanup=drop)
            def web(): return "url"
        """)
        killed(project)
        argv = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "--plan-cleanup"]
        with subprocess.Popen(argv, cwd=project.path, stdout=subprocess.DEVNULL) as process:
            wait_until(lambda: project.calls == ["drop"])
            yield process
            (project.path / "go").touch()

    def test_it_waits_for_the_other(
        self, project: Project, cleaner: subprocess.Popen[bytes]
    ) -> None:
        """It does not say that nothing is left before that is true, and cleans up nothing twice."""
        argv = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "--plan-cleanup"]
        with subprocess.Popen(argv, cwd=project.path, stdout=subprocess.PIPE, text=True) as second:
            assert second.stdout is not None
            seen = []
            for line in second.stdout:
                seen.append(line)
                if "waiting for the process that cleans up environment 'run-" in line:
                    assert project.calls == ["drop"]
                    (project.path / "go").touch()
        assert second.returncode == 0, seen
        assert "plan: nothing is left of earlier runs\n" in seen
        assert project.calls == ["drop", "dropped"]

    def test_it_waits_no_longer_than_the_limit(
        self, project: Project, cleaner: subprocess.Popen[bytes]
    ) -> None:
        """What is left by then is named, and the exit status is 1."""
        result = clean_up(project, "--plan-cleanup-limit=1s")
        assert result.ret == 1
        assert "not everything could be cleaned up: 'run-" in result.stdout.str()
        assert cleaner.poll() is None


class TestNextRun:
    """A plain run after a run that was killed."""

    def test_it_cleans_up_first_and_says_so(self, project: Project) -> None:
        """The run reports the cleanup, performs it, and then runs its own tests."""
        project.steps(STEPS)
        killed(project)
        result = project.run_apart()
        assert result.ret == 0
        assert project.calls == [
            *CLEANED, "web up", "test", "web clean url success", "web undo",
        ]  # fmt: skip
        lines = plan_lines(result)
        assert lines[0].startswith("plan: cleaning up environment 'run-")
        assert journals(project) == []

    def test_it_leaves_nothing_behind(self, project: Project) -> None:
        """A successful run removes its own environment; only the history stays."""
        project.steps(STEPS)
        project.tests(PASSES)
        project.run_apart()
        assert {path.name for path in (project.path / ".pytest_plan").iterdir()} == {
            ".gitignore",
            "CACHEDIR.TAG",
            "history",
        }

    def test_with_workers_the_controller_does_it(self, project: Project) -> None:
        """With workers, only the controller cleans up, and it does so once."""
        project.steps(STEPS)
        killed(project)
        result = project.run_apart("-n", "2", "-p", "xdist")
        assert result.ret == 0
        assert project.calls[:2] == CLEANED
        assert project.calls.count(CLEANED[0]) == 1

    def test_cleanup_is_given_up_after_three_owners(self, project: Project) -> None:
        """A cleanup that failed three times is not tried again, but is reported every time."""
        project.steps(STEPS)
        killed(project)
        project.steps(STEPS.replace('note("web", "clean"', 'note("tried"); raise OSError(1'))
        for _ in range(5):
            result = clean_up(project)
            assert result.ret == 1
        assert project.calls.count("tried") == 3
        assert "its cleanup failed 3 times and was given up" in result.stdout.str()
        assert str(journals(project)[0]) in result.stdout.str().replace("\n", "")

    def test_a_journal_that_cannot_be_read_is_kept(self, project: Project) -> None:
        """An unreadable journal is kept and reported, and the run uses another environment."""
        project.steps(STEPS)
        killed(project)
        (file,) = journals(project)
        for part in file.parent.glob("journal*"):
            part.unlink()
        file.write_bytes(b"garbage" * 1000)
        file.chmod(0o600)
        result = project.run_apart()
        assert result.ret == 0
        assert "cannot read the journal" in result.stdout.str()
        assert file.read_bytes() == b"garbage" * 1000
        assert clean_up(project).ret == 1


class TestPrograms:
    """The programs that an undo starts."""

    @pytest.mark.parametrize("path", [None, "somewhere"])
    def test_they_find_the_environment_of_the_dead_run(
        self, project: Project, path: str | None
    ) -> None:
        """The reaper adds no variable, such as PYTHONPATH; what `ctx.setenv` has set is there."""
        folders = [path, str(ROOT), str(project.path)] if path else []
        variables = {**os.environ, "PYTEST_ADDOPTS": "-v", "PYTHONPATH": os.pathsep.join(folders)}
        if not folders:
            del variables["PYTHONPATH"]
            project.write("pytest.ini", f"[pytest]\npythonpath = . {ROOT}")
        project.steps("""
            import json, subprocess, sys

            COMMAND = [sys.executable, "-S", "-c",
                       "import json, os; print(json.dumps(dict(os.environ)))"]

            def undo(name):
                found = subprocess.run(COMMAND, capture_output=True, text=True, check=True).stdout
                with open(name, "w") as file: file.write(found)

            @pytest.mark.plan_step
            def web(ctx):
                undo("alive")
                ctx.setenv("DATABASE", "mine")
                ctx.defer(undo, "dead")
        """)
        project.tests(DIES)
        argv = [sys.executable, "-m", "pytest", "-p", "pytest_plan"]
        done = subprocess.run(argv, cwd=project.path, env=variables, check=False)
        assert done.returncode == -signal.SIGKILL
        wait_until(lambda: (project.path / "dead").exists() and not journals(project))
        alive, dead = (json.loads((project.path / name).read_text()) for name in ("alive", "dead"))
        # pytest sets these itself; the last is for one test, and another pytest cleans up.
        for own in ("PYTEST_VERSION", "PYTEST_CURRENT_TEST"):
            alive.pop(own, None), dead.pop(own, None)
        assert dead == {**alive, "DATABASE": "mine"}


class TestChangedCode:
    """The conftest has changed since the run."""

    def test_a_conftest_of_a_folder_is_loaded(self, project: Project) -> None:
        """The conftest of a folder is loaded, although nothing is collected."""
        project.steps(
            """
            def undo(what):
                note("undo", what)

            @pytest.mark.plan_step
            def db(ctx):
                ctx.defer(undo, "db")
            """,
            name="api/conftest.py",
        )
        project.tests(DIES.replace("web", "db"), name="api/test_api.py")
        result = project.run_apart(*NO_REAPER, "api")
        assert result.ret == -signal.SIGKILL
        result = clean_up(project)
        assert (result.ret, project.calls) == (0, ["undo db"])

    def test_steps_of_a_broken_conftest_are_kept(self, project: Project) -> None:
        """A broken conftest is reported; the steps in it are cleaned up once it is fixed."""
        project.steps(STEPS)
        killed(project)
        conftest = project.path / "conftest.py"
        good = conftest.read_text()
        conftest.write_text("raise RuntimeError('half a merge')")
        result = clean_up(project)
        text = result.stdout.str() + result.stderr.str()
        assert result.ret == 1
        assert "half a merge" in text
        assert "Traceback" not in text
        assert project.calls == ["web undo"]
        conftest.write_text(good)
        assert clean_up(project).ret == 0
        assert project.calls == ["web undo", CLEANED[0]]

    def test_a_renamed_step_is_kept_and_reported(self, project: Project) -> None:
        """A renamed step is reported and its record kept, but its deferred calls run."""
        project.steps(STEPS)
        killed(project)
        project.steps(STEPS.replace('name="web"', 'name="site"'))
        result = clean_up(project)
        assert result.ret == 1
        assert "step 'web' is no longer declared" in result.stdout.str()
        assert project.calls == ["web undo"]
        assert [step.name for step in read(journals(project)[0]).due()] == ["web"]

    def test_a_step_that_is_new_is_ignored(self, project: Project) -> None:
        """A step that was added since is ignored, because it had not begun."""
        project.steps(STEPS)
        killed(project)
        project.steps(STEPS + '        plan.add_step(Web(), name="new")')
        assert clean_up(project).ret == 0
        assert project.calls == CLEANED


def test_a_run_that_died_before_it_had_a_journal_leaves_nothing(project: Project) -> None:
    """The next run silently removes an environment without a journal."""
    project.steps(STEPS)
    project.tests(PASSES)
    folder = project.path / ".pytest_plan" / "environments" / "run-0123abcd"
    for path in reversed([folder, *folder.parents[:2]]):
        path.mkdir(mode=0o700)
    (folder / "lock").touch(mode=0o600)
    result = project.run_apart()
    assert result.ret == 0
    assert not folder.parent.exists()


class TestLost:
    """Cleanup that only the dead process could have run."""

    def test_code_after_a_yield_is_reported_once(self, project: Project) -> None:
        """The code after a `yield` is reported once, and its record is then dropped."""
        project.steps("""
            @pytest.mark.plan_step
            def web(ctx):
                ctx.defer(note, "undone")
                yield "url"
                note("tail")
        """)
        killed(project)
        result = clean_up(project)
        assert result.ret == 1
        assert "code after its yield" in result.stdout.str()
        assert "only the process that ran the step can run this code" in result.stdout.str()
        assert project.calls == ["undone"]
        again = clean_up(project)
        assert (again.ret, plan_lines(again)) == (0, ["plan: nothing is left of earlier runs"])
        assert journals(project) == []

    def test_a_hook_whose_value_is_not_durable_is_reported(self, project: Project) -> None:
        """A hook whose value cannot be written is reported with the type of the value."""
        project.steps(STEPS.replace('return "url"', "return object()"))
        killed(project)
        result = clean_up(project)
        assert result.ret == 1
        assert "a value of type 'object' cannot be written as JSON" in result.stdout.str()
        assert project.calls == ["web undo"]


class TestPlace:
    """A `plan_dir` that cannot or must not be used."""

    def refuse(self, project: Project, *said: str) -> None:
        """Check that a plain run warns and works, and a run with a named environment fails."""
        project.steps(STEPS)
        project.tests(PASSES)
        result = project.pytester.runpytest_subprocess("-p", "pytest_plan")
        assert result.ret == 0
        text = result.stdout.str()
        for part in said:
            assert part in text
        assert "the journal of this run is in " in text
        assert project.calls[-1] == "web undo"
        refuses(
            project.run_apart("--plan-environment=mine"),
            said[0],
            status=pytest.ExitCode.USAGE_ERROR,
        )

    @pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
    def test_a_folder_that_cannot_be_written(self, project: Project) -> None:
        """`plan_dir` may be read-only, as in a read-only checkout."""
        (project.path / ".pytest_plan").mkdir(0o500)
        self.refuse(project, "cannot be created")

    def test_a_folder_that_others_can_change(self, project: Project) -> None:
        """A `plan_dir` that other users can change is not used: they could replace its contents."""
        (project.path / ".pytest_plan").mkdir()
        (project.path / ".pytest_plan").chmod(0o770)
        self.refuse(project, "is accessible to other users (mode 0770); run: chmod 700 ")

    def test_a_folder_that_is_a_link(self, project: Project, tmp_path: Path) -> None:
        """A `plan_dir` that is a symbolic link is not used, and its target stays empty."""
        target = project.path / "target"
        target.mkdir(0o700)
        (project.path / ".pytest_plan").symlink_to(target)
        self.refuse(project, "is a symbolic link; remove it, or set plan_dir to another path")
        assert not (target / "environments").exists()

    def test_a_file_in_its_place(self, project: Project) -> None:
        """A `plan_dir` that is a file is refused with a clear message."""
        (project.path / ".pytest_plan").touch(0o600)
        self.refuse(project, "is not a directory; remove it, or set plan_dir to another path")


def test_an_environment_that_another_process_removed_is_not_created_again(project: Project) -> None:
    """An environment that another process has removed in the meantime is not created again."""
    project.steps("""
        from pytest_plan.engine.environments import recovery

        recovery.names = lambda parent: ["run-gone"]
    """)
    assert clean_up(project).ret == 0
    assert not (project.path / ".pytest_plan" / "environments").exists()


class TestReaper:
    """Cleanup by the reaper, immediately after the death of a run."""

    def kill_in_test(self, project: Project, *args: str) -> None:
        """Run a test that kills pytest, and wait until the reaper has cleaned up everything."""
        project.tests(DIES if "-n" not in args else DIES.replace("getpid", "getppid"))
        result = project.run_apart(*args)
        assert result.ret == -signal.SIGKILL
        wait_until(lambda: not (project.path / ".pytest_plan" / "environments").exists())

    @pytest.mark.parametrize("args", [(), ("-n", "2", "-p", "xdist")], ids=["solo", "workers"])
    def test_it_cleans_up_at_once(self, project: Project, args: tuple[str, ...]) -> None:
        """The reaper runs hooks and deferred calls once."""
        project.steps(STEPS)
        self.kill_in_test(project, *args)
        assert project.calls[-2:] == CLEANED
        assert project.calls.count(CLEANED[0]) == 1

    def test_it_works_where_the_run_was_started(self, project: Project) -> None:
        """The reaper runs hooks in the working directory of the run."""
        project.steps(STEPS.replace("value, ctx.reason", "os.getcwd()"))
        self.kill_in_test(project)
        assert f"web clean {project.path}" in project.calls

    def test_it_leaves_a_kept_environment_alone(self, project: Project) -> None:
        """The reaper leaves a kept environment alone."""
        project.steps(STEPS)
        killed(project)
        (kept,) = journals(project)
        with sealing(kept) as connection:
            connection.execute("UPDATE environment SET value = '\"kept\"' WHERE key = 'status'")
        project.tests(DIES)
        assert project.run_apart().ret == -signal.SIGKILL
        wait_until(lambda: journals(project) == [kept])
        assert project.calls == ["web up", *CLEANED]
        assert clean_up(project).ret == 0

    def test_its_death_is_reported_and_it_is_restarted(self, project: Project) -> None:
        """A reaper that dies is reported and restarted once; after that the run has no reaper."""
        project.steps("""
            import psutil, time

            def reapers():
                children = psutil.Process().children()
                return [one for one in children if "watchdog.py" in " ".join(one.cmdline())]

            def kill_the_reaper():
                deadline = time.monotonic() + 20
                while not reapers() and time.monotonic() < deadline:
                    time.sleep(0.01)  # the step before has just ended: it is being looked after
                for child in reapers():
                    note("killed")
                    child.kill()
                    child.wait(5)

            @pytest.mark.plan_step
            def a():
                kill_the_reaper()

            @pytest.mark.plan_step
            def b(a):
                kill_the_reaper()

            @pytest.mark.plan_step
            def web(b):
                for child in reapers():
                    note("another")
        """)
        project.tests(PASSES)
        result = project.pytester.runpytest_subprocess("-p", "pytest_plan")
        text = result.stdout.str()
        assert (result.ret, project.calls) == (0, ["killed", "killed", "test"])
        assert text.count("has died: it is restarted") == 1
        assert text.count("has died: this run continues without one") == 1

    def test_without_the_reaper_there_is_no_process(self, project: Project) -> None:
        """With `plan_reaper = false` there is no reaper process."""
        project.steps(STEPS)
        project.tests("""
            import psutil

            def test_children(web):
                note(len(psutil.Process().children()))
        """)
        project.run_apart(*NO_REAPER)
        project.run_apart()
        assert [line for line in project.calls if line.isdigit()] == ["0", "1"]


def test_no_file_of_a_killed_run_contains_a_secret(project: Project) -> None:
    """No secret is in the journal or in the log of the reaper."""
    project.steps("""
        def undo(*args):
            raise RuntimeError("broken")

        class Web(Step):
            def exec(self, ctx, state):
                state["token"] = Secret("canary-1234")
                state["url"] = "https://canary-1234@host"
                ctx.defer(undo, "canary-1234")
                ctx.defer(undo)
                ctx.setenv("TOKEN", "canary-1234")
                ctx.start(["sh", "-c", "sleep 600", "canary-1234"])
                ctx.log("canary-1234")
                return Secret("canary-1234")

            def cleanup(self, state):
                raise RuntimeError(f"canary? {state.get('token')}")

        def pytest_plan_configure(plan):
            plan.add_step(Web(), name="web")
    """)
    project.tests(DIES)
    assert project.run_apart().ret == -signal.SIGKILL
    folder = project.path / ".pytest_plan" / "environments"
    wait_until(
        lambda: (
            "not everything could be cleaned up"
            in "".join(path.read_text() for path in folder.glob("*/*.log"))
        )
    )
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"journal.sqlite", "reaper.log"}
    for path in files:
        assert b"canary-1234" not in path.read_bytes(), path


HIDING = """
    import sys

    CODE = '''
    import os
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.closerange(0, 256)
    os.execve("/bin/sh", ["sh", "-c", "echo $$ >daemon.new; mv daemon.new daemon; sleep 60 & wait"],
              {"PATH": os.defpath})
    '''

    @pytest.mark.plan_step(timeout="30s", cleanup=lambda: note("clean"))
    def daemon(ctx):
        ctx.METHOD([sys.executable, "-c", CODE])
        ctx.wait_until(lambda: os.path.exists("daemon"))
        note("up")
"""


def hiding(project: Project, method: str) -> None:
    """Declare a step that starts a daemon which leaves no trace but its limit on file locks."""
    project.steps(HIDING.replace("METHOD", method).replace("\n    ", "\n"))


def daemon_of(project: Project) -> Identity:
    """Return the daemon of the last run."""
    file = project.path / "daemon"
    pid = int(file.read_text())
    file.unlink()
    return identify(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="needs the limit on file locks as a mark")
@pytest.mark.parametrize("method", ["run", "start"])
class TestDaemon:
    """A daemon that has left its session and overwritten its environment."""

    def test_it_is_ended_after_a_green_run(self, project: Project, method: str) -> None:
        """It is ended with its step."""
        hiding(project, method)
        project.tests("def test_it(daemon): pass")
        assert project.run_apart().ret == 0
        assert not daemon_of(project).is_alive()

    def test_it_is_ended_after_sigkill(self, project: Project, method: str) -> None:
        """The journal has its mark, which is on disk before the fork."""
        hiding(project, method)
        killed_by = DIES.replace("web", "daemon")
        project.tests(killed_by)
        assert project.run_apart(*NO_REAPER).ret == -signal.SIGKILL
        daemon = daemon_of(project)
        assert daemon.is_alive()
        assert clean_up(project).ret == 0
        assert not daemon.is_alive()

    def test_the_reaper_ends_it(self, project: Project, method: str) -> None:
        """It needs no further run."""
        hiding(project, method)
        project.tests(DIES.replace("web", "daemon"))
        assert project.run_apart().ret == -signal.SIGKILL
        daemon = daemon_of(project)
        wait_until(lambda: not daemon.is_alive() and not journals(project))

    def test_it_is_kept_with_its_step(self, project: Project, method: str) -> None:
        """A kept daemon lives on, is reused, and is ended by the cleanup of its step."""
        hiding(project, method)
        project.steps(
            (project.path / "conftest.py")
            .read_text()
            .replace(', cleanup=lambda: note("clean")', "")
        )
        project.tests("def test_it(daemon): pass")
        assert project.run_apart("--plan-keep", "always").ret == 0
        daemon = daemon_of(project)
        assert daemon.is_alive()
        result = project.run_apart("--plan-reuse")
        assert "plan: daemon  reused    T  unchanged, its processes are running" in plan_lines(
            result
        )
        assert daemon.is_alive()
        daemon.send_signal(signal.SIGKILL)
        result = project.run_apart("--plan-reuse")
        assert project.calls == ["up", "up"], result.stdout.str()
        daemon = daemon_of(project)
        assert clean_up(project).ret == 0
        assert not daemon.is_alive()
