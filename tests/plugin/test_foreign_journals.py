"""Journals that this user did not write, or not where they are: named, and otherwise left alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.support.journals import sealing
from tests.plugin.project import Project, plan_lines, refuses
from tests.plugin.test_recovery import (
    CLEANED,
    DIES,
    STEPS,
    clean_up,
    journals,
    killed,
    wait_until,
)

KEYS = ["1" * 64, "2" * 64]


@pytest.fixture
def project(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose one step has something to undo; its state folder is its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(project.path / "state"))
    project.steps(STEPS)
    return project


def use_key(number: int) -> pytest.MonkeyPatch:
    """Give the next runs one of two keys, until the returned patch is undone."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTEST_PLAN_KEY", KEYS[number])
    return patch


def contents(folder: Path) -> dict[Path, object]:
    """Return the kind, mode and content of all that is in a folder, but for what locks it."""
    found: dict[Path, object] = {}
    for path in folder.rglob("*"):
        if path.name in ("lock", "journal.sqlite-shm") or path.lstat().st_size == 0:
            continue
        status = path.lstat()
        is_file = path.is_file() and not path.is_symlink()
        found[path] = (status.st_mode, status.st_ino, path.read_bytes() if is_file else None)
    return found


def all_journals(project: Project) -> list[Path]:
    """Return the path of each journal, whatever is there."""
    folders = (project.path / ".pytest_plan" / "environments").glob("*")
    files = [folder / "journal.sqlite" for folder in folders]
    return [file for file in files if os.path.lexists(file)]


def other_key(project: Project) -> None:
    """As if the folder came with a clone: another key has sealed the journal."""
    shutil.rmtree(project.path / "state")


def other_format(project: Project) -> None:
    """As if the version before this one had written the journal."""
    (file,) = journals(project)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 3")


def restored(project: Project) -> None:
    """As if a cache had restored the folder: the same rows in other files."""
    (file,) = journals(project)
    folder = file.parent
    shutil.copytree(folder, folder.with_name("copy"))
    shutil.rmtree(folder)
    folder.with_name("copy").rename(folder)


def pipe(project: Project) -> None:
    """A named pipe, which would let a reader wait forever."""
    (file,) = journals(project)
    shutil.rmtree(file.parent)
    file.parent.mkdir(mode=0o700)
    os.mkfifo(file, 0o600)


def pipe_as_log(project: Project) -> None:
    """A journal of ours, whose log is a named pipe."""
    (file,) = journals(project)
    Path(f"{file}-wal").unlink()
    os.mkfifo(f"{file}-wal", 0o600)


def dangling(project: Project) -> None:
    """A link to a file that does not exist."""
    (file,) = journals(project)
    shutil.rmtree(file.parent)
    file.parent.mkdir(mode=0o700)
    (file.parent / "precious").write_text("keep this")
    file.symlink_to("/nonexistent/journal")


FOREIGN = [other_key, other_format, restored, pipe, pipe_as_log, dangling]


@pytest.mark.parametrize("change", FOREIGN, ids=lambda change: change.__name__)
class TestForeign:
    """A journal that is not followed."""

    def test_a_run_goes_on(self, project: Project, change: Callable[[Project], None]) -> None:
        """One line names it, and neither it nor anything that it records is touched."""
        killed(project)
        change(project)
        (file,) = all_journals(project)
        before = contents(file.parent)
        result = project.run_apart()
        result.assert_outcomes(passed=1)
        assert project.calls == ["web up", "test", "web clean url success", "web undo"]
        (line,) = [line for line in plan_lines(result) if "journal" in line]
        assert str(file) in line
        assert "chmod" not in result.stdout.str() + result.stderr.str()
        assert contents(file.parent) == before

    def test_cleanup_exits_with_1(
        self, project: Project, change: Callable[[Project], None]
    ) -> None:
        """It is not cleaned up, and not removed."""
        killed(project)
        change(project)
        result = clean_up(project)
        assert result.ret == 1
        assert "run-" in result.stdout.str()
        assert "INTERNALERROR" not in result.stdout.str()
        assert project.calls == []
        assert len(all_journals(project)) == 1

    def test_a_run_that_needs_its_name_is_refused(
        self, project: Project, change: Callable[[Project], None]
    ) -> None:
        """Nothing is provisioned."""
        killed(project, "--plan-environment", "staging")
        change(project)
        refuses(project.run_apart("--plan-environment", "staging"), "staging", "left unchanged")
        assert project.calls == []


def test_another_run_of_the_same_user_is_in_use(project: Project) -> None:
    """The journal of a live run is not called foreign because the run has another key."""
    project.tests("""
        import subprocess, sys

        def test_it(web):
            environ = {**os.environ, "PYTEST_PLAN_KEY": "3" * 64, "INNER": "1"}
            if "INNER" not in os.environ:
                command = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "--plan-cleanup"]
                run = subprocess.run(command, env=environ, capture_output=True, text=True)
                note(run.returncode, "is in use" in run.stdout, "sealed" in run.stdout)
    """)
    project.run_apart().assert_outcomes(passed=1)
    assert "0 True False" in project.calls


class TestKept:
    """A journal that was kept on purpose."""

    def kept(self, project: Project) -> Path:
        """Keep the step of a run."""
        project.steps("""
            def undo():
                note("undo")

            @pytest.mark.plan_step
            def web(ctx):
                note("web up")
                ctx.defer(undo)
                return "url"
        """)
        project.tests("def test_passes(web): pass")
        project.run_apart("--plan-keep", "always").assert_outcomes(passed=1)
        (file,) = journals(project)
        return file

    def test_it_may_be_moved(self, project: Project) -> None:
        """It holds nothing that only the machine's state proves."""
        self.kept(project)
        restored(project)
        project.run_apart("--plan-reuse").assert_outcomes(passed=1)
        assert project.calls == ["web up"]
        assert clean_up(project).ret == 0
        assert project.calls == ["web up", "undo"]

    def test_its_lost_modes_are_repaired(self, project: Project) -> None:
        """Caches and archives lose mode bits. The seal proves that it is ours."""
        file = self.kept(project)
        restored(project)
        file.chmod(0o644)
        file.parent.chmod(0o755)
        result = project.run_apart("--plan-reuse")
        result.assert_outcomes(passed=1)
        assert "plan: the files of environment 'default' are private again" in plan_lines(result)
        assert project.calls == ["web up"]
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700

    def test_cleanup_repairs_its_lost_modes(self, project: Project) -> None:
        """As a run does."""
        self.kept(project).chmod(0o644)
        result = clean_up(project)
        assert result.ret == 0
        assert "plan: the files of environment 'default' are private again" in plan_lines(result)
        assert project.calls == ["web up", "undo"]

    def test_one_that_others_can_change_is_reported_with_the_cure(self, project: Project) -> None:
        """Somebody may have put back an earlier journal of this user, which is sealed, too."""
        file = self.kept(project)
        file.chmod(0o664)
        refuses(project.run_apart("--plan-reuse"), f"chmod 600 {file}")
        file.chmod(0o600)
        project.run_apart("--plan-reuse").assert_outcomes(passed=1)
        assert project.calls == ["web up"]

    @pytest.mark.parametrize("args", [(), ("-n", "2", "-p", "xdist")], ids=["solo", "workers"])
    @pytest.mark.parametrize("change", [other_key, other_format], ids=lambda one: one.__name__)
    def test_a_foreign_one_is_not_reused(
        self, project: Project, change: Callable[[Project], None], args: tuple[str, ...]
    ) -> None:
        """The run starts fresh in a private environment, and says so in one line."""
        self.kept(project)
        if change is other_key:
            journals(project)[0].chmod(0o644)
        change(project)
        (file,) = all_journals(project)
        before = contents(file.parent)
        project.tests("def test_it(web, plan): note(plan.environment == f'run-{plan.run_id}')")
        result = project.run_apart("--plan-reuse", *args)
        result.assert_outcomes(passed=1)
        assert project.calls == ["web up", "web up", "True", "undo"]
        (line,) = [line for line in plan_lines(result) if "journal" in line]
        assert line.startswith("plan: nothing is reused, and this run keeps nothing: ")
        assert str(file) in line
        assert "chmod" not in result.stdout.str() + result.stderr.str()
        assert contents(file.parent) == before
        assert all_journals(project) == [file]

    def test_a_foreign_one_is_not_kept_over(self, project: Project) -> None:
        """A run that must keep its environment cannot do so under the name."""
        self.kept(project)
        other_key(project)
        refuses(project.run_apart("--plan-keep", "always"), "not sealed", "left unchanged")
        assert project.calls == ["web up"]

    def test_one_that_was_not_kept_is_not_reused(self, project: Project) -> None:
        """Its run may be in progress where the folder was copied."""
        project.steps(STEPS)
        killed(project, "--plan-environment", "default")
        restored(project)
        project.run_apart("--plan-reuse").assert_outcomes(passed=1)
        assert project.calls == ["web up", "test", "web clean url success", "web undo"]
        assert len(all_journals(project)) == 1

    def test_a_key_is_carried_to_another_machine(self, project: Project) -> None:
        """The variable has the text of the file."""
        self.kept(project)
        text = (project.path / "state" / "pytest-plan" / "key").read_text().strip()
        other_key(project)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTEST_PLAN_KEY", text)
            assert clean_up(project).ret == 0
        assert project.calls == ["web up", "undo"]
        assert not (project.path / "state").exists()

    def test_unknown_columns_are_left_alone(self, project: Project) -> None:
        """A journal with more columns is followed and written."""
        file = self.kept(project)
        with sealing(file) as connection:
            for table in ("environment", "step", "undo", "state"):
                connection.execute(f"ALTER TABLE {table} ADD COLUMN later TEXT")
        assert clean_up(project).ret == 0
        assert project.calls == ["web up", "undo"]


class TestKey:
    """PYTEST_PLAN_KEY, and a state folder that cannot be used."""

    STEP = """
        import subprocess, sys
        SHOW = [sys.executable, "-c", "import os; print(os.environ.get('PYTEST_PLAN_KEY'))"]

        @pytest.mark.plan_step
        def web(ctx):
            note(ctx.run(SHOW).stdout.strip(), subprocess.check_output(SHOW, text=True).strip())
            ctx.log("1" * 64)
            ctx.defer(note, "undo")
            return "url"
    """

    @pytest.mark.parametrize("args", [(), ("-n", "1", "-p", "xdist")], ids=["solo", "workers"])
    def test_it_is_masked_and_not_inherited(self, project: Project, args: tuple[str, ...]) -> None:
        """No program sees it, no worker, and no log; the state folder is not used."""
        project.steps(self.STEP)
        project.tests("def test_it(web): note(os.environ.get('PYTEST_PLAN_KEY'))")
        patch = use_key(0)
        result = project.run_apart(*args)
        patch.undo()
        result.assert_outcomes(passed=1)
        assert project.calls == ["None None", "None", "undo"]
        (log,) = (project.path / ".pytest_plan").glob("artifacts/*/web/log.txt")
        assert "***" in log.read_text()
        assert not (project.path / "state").exists()

    def test_the_variable_is_back_after_the_run(self, project: Project) -> None:
        """A second run in the same process has the same key."""
        project.tests("def test_it(web): pass")
        patch = use_key(0)
        project.run().assert_outcomes(passed=1)
        assert os.environ["PYTEST_PLAN_KEY"] == KEYS[0]
        patch.undo()

    def test_the_reaper_has_it(self, project: Project) -> None:
        """In its environment; its arguments are visible to other users."""
        project.tests("""
            import psutil

            def test_it(web):
                children = psutil.Process().children()
                (reaper,) = [one for one in children if "watchdog.py" in " ".join(one.cmdline())]
                key = reaper.environ()["PYTEST_PLAN_KEY"]
                note(key, key in " ".join(reaper.cmdline()))
        """)
        project.run_apart().assert_outcomes(passed=1)
        key = (project.path / "state" / "pytest-plan" / "key").read_text().strip()
        assert f"{key} False" in project.calls

    def test_a_bad_one_is_a_usage_error(self, project: Project) -> None:
        """The message names the variable."""
        project.tests("def test_it(web): pass")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTEST_PLAN_KEY", "deadbeef")
            result = project.run_apart()
        refuses(result, "environment variable PYTEST_PLAN_KEY")
        assert "deadbeef" not in result.stderr.str() + result.stdout.str()

    def test_without_steps_no_key_is_created(self, project: Project) -> None:
        """It is made when it is first used."""
        project.steps()
        project.tests("def test_it(): pass")
        project.run_apart().assert_outcomes(passed=1)
        assert not (project.path / "state").exists()

    def test_a_key_that_cannot_be_stored_lasts_for_the_run(self, project: Project) -> None:
        """One line says so; nothing can be kept."""
        (project.path / "state").write_text("a file")
        project.tests("def test_it(web): pass")
        result = project.run_apart()
        result.assert_outcomes(passed=1)
        (line,) = [line for line in plan_lines(result) if "key" in line]
        assert str(project.path / "state") in line
        assert project.calls[-1] == "web undo"
        refuses(project.run_apart("--plan-keep", "always"), "PYTEST_PLAN_KEY")
        refuses(project.run_apart("--plan-reuse"), "PYTEST_PLAN_KEY")

    def test_its_reaper_can_still_clean_up(self, project: Project) -> None:
        """The key lives for this run and for its reaper."""
        (project.path / "state").write_text("a file")
        project.tests(DIES)
        project.run_apart()
        wait_until(lambda: project.calls[-2:] == CLEANED)
        wait_until(lambda: not journals(project))
