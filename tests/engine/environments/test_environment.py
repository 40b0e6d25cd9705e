"""An environment is owned by one process at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_plan.engine.environments.environment import (
    BusyError,
    ElsewhereError,
    Environment,
    claimed,
    names,
    tidy,
)
from pytest_plan.engine.model.errors import JournalError
from tests.engine.support.journals import references

ROOT = Path(__file__).parents[3]
LONGEST = 20.0
REPEATS = 50
_HEAD = f"""\
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from pytest_plan.engine.environments.environment import *
from pytest_plan.engine.model.errors import JournalError
from tests.engine.support.journals import references
parent = Path(sys.argv[1])
"""
HOLD = """
environment = Environment(parent, "staging")
environment.open(references(), lambda name: "").close()
print("held", flush=True)
sys.stdin.read()
"""
FORK = """
environment = Environment(parent, "staging")
environment.open(references(), lambda name: "").close()
if os.fork() == 0:
    os.setsid()
    os.write(1, f"{os.getpid()}\\n".encode())  # one write: the lines of both stay whole
    time.sleep(60)
    os._exit(0)
os.write(1, b"held\\n")
sys.stdin.read()
"""


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """The `plan_dir` of the test."""
    return tmp_path / "plan"


def start(parent: Path, code: str) -> subprocess.Popen[str]:
    """Starts processes that run a script; all of them are killed when the test ends."""
    return subprocess.Popen(
        [sys.executable, "-c", _HEAD + textwrap.dedent(code), str(parent)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture
def holder(parent: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that owns the environment `staging`."""
    with start(parent, HOLD) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


class TestClaim:
    """Several processes that want one environment."""

    def test_the_second_fails_at_once(self, parent: Path, holder: subprocess.Popen[str]) -> None:
        """The error names the owner, its host and its age, and says what to do."""
        begun = time.monotonic()
        with pytest.raises(BusyError) as caught:
            Environment(parent, "staging")
        assert time.monotonic() - begun < 1.0
        text = str(caught.value)
        assert f"'staging' is in use by process {holder.pid} on {os.uname().nodename} for " in text
        assert "--plan-environment NAME" in text

    def test_another_name_is_free(self, parent: Path, holder: subprocess.Popen[str]) -> None:
        """Environments with different names are independent."""
        Environment(parent, "other").release(remove=True)
        assert names(parent) == ["staging"]

    def test_it_is_free_when_its_owner_was_killed(
        self, parent: Path, holder: subprocess.Popen[str]
    ) -> None:
        """The operating system releases the lock at once."""
        holder.send_signal(signal.SIGKILL)
        holder.wait(LONGEST)
        environment = Environment(parent, "staging")
        recorded = environment.recorded()
        assert recorded is not None
        assert recorded.owner is not None
        assert recorded.owner.pid == holder.pid
        environment.release(remove=True)

    def test_a_child_that_was_forked_does_not_keep_it(self, parent: Path) -> None:
        """A step's daemon outlives the owner without holding the lock."""
        with start(parent, FORK) as process:
            assert process.stdout is not None
            words = {process.stdout.readline().strip() for _ in range(2)}
            (child,) = words - {"held"}
            try:
                process.kill()
                process.wait(LONGEST)
                os.kill(int(child), 0)  # it lives
                Environment(parent, "staging").release(remove=True)
            finally:
                os.kill(int(child), signal.SIGKILL)

    def test_a_thread_of_ours_is_another(self, parent: Path) -> None:
        """A process can own an environment only once."""
        environment = Environment(parent, "staging")
        with pytest.raises(BusyError, match="'staging' is in use by another process; to wait"):
            Environment(parent, "staging")
        environment.release(remove=True)

    def test_looking_at_it_disturbs_nobody(self, parent: Path) -> None:
        """Reading the owner creates no file, even before the owner has a journal."""
        environment = Environment(parent, "staging")
        for _ in range(3):
            with pytest.raises(BusyError):
                Environment(parent, "staging")
        assert {path.name for path in environment.folder.iterdir()} == {"lock"}
        environment.open(references(), lambda name: "").close()
        assert environment.recorded() is not None
        environment.release(remove=True)

    def test_many_at_once_have_it_one_after_the_other(self, parent: Path) -> None:
        """Many processes take turns, and the last one leaves no folder behind."""
        inside, most, errors, claims = [0], [0], [], [0]
        lock = threading.Lock()

        def claim() -> None:
            for _ in range(REPEATS):
                try:
                    environment = Environment(parent, "staging")
                except BusyError:
                    continue
                except Exception as error:
                    errors.append(error)
                    return
                with lock:
                    inside[0] += 1
                    claims[0] += 1
                    most[0] = max(most[0], inside[0])
                (environment.folder / "ours").touch()
                with lock:
                    inside[0] -= 1
                environment.release(remove=True)

        threads = [threading.Thread(target=claim) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONGEST)
        assert errors == []
        assert most[0] == 1
        assert claims[0] >= REPEATS / 2


class TestRelease:
    """What `release` leaves behind."""

    def test_what_is_removed_leaves_nothing(self, parent: Path) -> None:
        """An empty `plan_dir` is removed as well."""
        for name in ("run-1", "staging"):
            environment = Environment(parent, name)
            environment.open(references(), lambda name: "").close()
            environment.release(remove=True)
            assert not parent.exists()

    def test_other_things_in_the_plan_dir_stay(self, parent: Path) -> None:
        """Files that are not ours are not removed."""
        environment = Environment(parent, "run-1")
        (parent / "artifacts").mkdir()
        environment.release(remove=True)
        made = {".gitignore", "CACHEDIR.TAG"}
        assert {path.name for path in parent.iterdir()} == {"artifacts", *made}

    def test_what_is_kept_can_be_claimed_again(self, parent: Path) -> None:
        """Its journal is still there."""
        environment = Environment(parent, "run-1")
        environment.open(references(), lambda name: "").close()
        environment.release(remove=False)
        assert names(parent) == ["run-1"]
        with claimed(parent, "run-1") as again:
            assert again is not None
            recorded = again.recorded()
            assert recorded is not None
            assert recorded.facts["status"] == "open"
            again.release(remove=True)
        assert names(parent) == []

    def test_a_claim_that_fails_lets_go(self, parent: Path) -> None:
        """The environment is released whatever the body raises."""
        with pytest.raises(ValueError, match="mine"), claimed(parent, "run-1"):
            raise ValueError("mine")
        Environment(parent, "run-1").release(remove=True)

    def test_the_oldest_comes_first(self, parent: Path) -> None:
        """The order is that of the last write."""
        for number, name in enumerate(("run-b", "run-a", "run-c")):
            environment = Environment(parent, name)
            environment.open(references(), lambda name: "").close()
            os.utime(environment.file, (number, number))
            environment.release(remove=False)
        assert names(parent) == ["run-b", "run-a", "run-c"]


class TestUnusable:
    """Folders and journals that are refused."""

    def test_somebody_has_it_or_it_is_unusable(self, parent: Path) -> None:
        """BusyError is raised only if another process owns the environment."""
        environment = Environment(parent, "run-1")
        environment.open(references(), lambda name: "").close()
        with claimed(parent, "run-1") as other:
            assert other is None
        environment.release()
        environment.folder.parent.chmod(0o777)
        with (
            pytest.raises(JournalError, match="chmod 700"),
            claimed(parent, "run-1"),
        ):
            pytest.fail("it was given")

    def test_a_journal_that_others_can_change_is_not_read(self, parent: Path) -> None:
        """Other users may have written it."""
        environment = Environment(parent, "run-1")
        environment.open(references(), lambda name: "").close()
        environment.file.chmod(0o664)
        with pytest.raises(JournalError, match="chmod 600"):
            environment.recorded()
        environment.release(remove=True)

    def test_files_that_others_can_read_are_made_private(self, parent: Path) -> None:
        """A cache has restored them; the seals are valid. Links are not followed."""
        environment = Environment(parent, "run-1")
        repaired: list[tuple[str, Path]] = []
        environment.on_repair = lambda text, file: repaired.append((text, file))
        environment.open(references(), lambda name: "").close()
        files = [environment.file, environment.folder / "lock"]
        for file in files:
            file.chmod(0o644)
        (parent / "elsewhere").touch()
        (parent / "elsewhere").chmod(0o644)
        (environment.folder / "released").symlink_to(parent / "elsewhere")
        environment.recorded()
        environment.recorded()
        text = "the files of environment 'run-1' are private again"
        assert repaired == [(text, environment.file)]
        assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * 2
        assert (parent / "elsewhere").stat().st_mode & 0o777 == 0o644
        environment.release(remove=True)

    def test_a_journal_that_is_a_link_is_not_read(self, parent: Path) -> None:
        """A symbolic link may lead to another file."""
        environment = Environment(parent, "run-1")
        environment.open(references(), lambda name: "").close()
        environment.file.rename(parent / "elsewhere")
        environment.file.symlink_to(parent / "elsewhere")
        with pytest.raises(JournalError, match="is a link"):
            environment.recorded()
        environment.release(remove=True)

    def test_one_that_cannot_be_opened_lets_its_writer_go(self, parent: Path) -> None:
        """The writer's thread ends."""
        environment = Environment(parent, "run-1")
        environment.file.write_bytes(b"garbage" * 1000)
        with pytest.raises(JournalError):
            environment.open(references(), lambda name: "")
        environment.release(remove=True)


class TestLivingOwner:
    """A lock that is free although the owner may be alive."""

    def test_a_copy_of_a_live_environment_is_in_use(
        self, parent: Path, holder: subprocess.Popen[str], tmp_path: Path
    ) -> None:
        """Its lock is free, but its owner is alive; once that has ended it can be claimed."""
        copy = tmp_path / "copy"
        subprocess.run(["cp", "-a", parent, copy], check=True)
        with pytest.raises(BusyError, match=f"in use by process {holder.pid} "):
            Environment(copy, "staging")
        assert names(copy) == ["staging"]
        holder.kill()
        holder.wait(LONGEST)
        Environment(copy, "staging").release(remove=True)
        assert not (copy / "environments").exists()

    def test_a_removed_lock_frees_nothing(
        self, parent: Path, holder: subprocess.Popen[str]
    ) -> None:
        """The owner is named as if it still held the lock."""
        (parent / "environments" / "staging" / "lock").unlink()
        for _ in range(2):
            with pytest.raises(BusyError, match=f"in use by process {holder.pid} "):
                Environment(parent, "staging")

    def test_a_copy_of_one_that_was_released_and_claimed_again(
        self, parent: Path, tmp_path: Path
    ) -> None:
        """The earlier release does not count."""
        environment = Environment(parent, "run-1")
        environment.open(references(), lambda name: "").close()
        environment.release()
        Environment(parent, "run-1").release()
        again = Environment(parent, "run-1")
        again.open(references(), lambda name: "").close()
        subprocess.run(["cp", "-a", parent, tmp_path / "copy"], check=True)
        with pytest.raises(BusyError):
            Environment(tmp_path / "copy", "run-1")
        again.release(remove=True)

    @pytest.mark.parametrize(
        "place", [{"host": "elsewhere"}, {"namespace": "pid:[1]"}], ids=["host", "container"]
    )
    def test_an_owner_elsewhere_is_never_taken_for_dead(
        self, parent: Path, place: dict[str, str]
    ) -> None:
        """The error names the folder to remove; what was kept on purpose can be used."""
        environment = Environment(parent, "staging")
        journal = environment.open(references(), lambda name: "")
        journal.set(owner={"pid": 2**22 + 1, "birth": "1", "boot": "gone"}, **place)
        environment.release()
        for _ in range(2):
            with pytest.raises(ElsewhereError) as caught:
                Environment(parent, "staging")
            assert f"remove {environment.folder}" in str(caught.value)
        journal.set(status="kept")
        journal.close()
        Environment(parent, "staging").release(remove=True)


class TestFoldersOfOthers:
    """What pytest-plan has not created is not removed."""

    def test_files_of_others_in_the_folder_stay(self, parent: Path) -> None:
        """The folder stays with them, and our own files are removed."""
        environment = Environment(parent, "prod")
        environment.open(references(), lambda name: "").close()
        (environment.folder / "data").mkdir()
        environment.release(remove=True)
        assert [path.name for path in environment.folder.iterdir()] == ["data"]

    def test_a_plan_dir_that_was_there_stays(self, parent: Path) -> None:
        """It gets no `.gitignore`, and is not removed when it is empty."""
        parent.mkdir(0o700)
        environment = Environment(parent, "run-1")
        assert [path.name for path in parent.iterdir()] == ["environments"]
        environment.release(remove=True)
        assert list(parent.iterdir()) == []

    def test_only_folders_with_nothing_else_are_tidied(self, parent: Path) -> None:
        """A folder of a run that was killed early has a lock or is empty."""
        for name, content in (("run-1", "lock"), ("run-2", "results"), ("other", "lock")):
            (parent / "environments" / name).mkdir(parents=True)
            (parent / "environments" / name / content).touch()
        for folder in (parent, parent / "environments"):
            folder.chmod(0o755)
        (parent / "environments" / "run-2").chmod(0o750)
        tidy(parent)
        left = sorted(path.name for path in (parent / "environments").iterdir())
        assert left == ["other", "run-2"]
        assert (parent / "environments" / "run-2").stat().st_mode & 0o777 == 0o750

    @pytest.mark.parametrize("place", ["plan", "plan/environments"])
    def test_a_link_is_not_followed(self, parent: Path, tmp_path: Path, place: str) -> None:
        """The names of environments behind it are not even listed."""
        environment = Environment(tmp_path / "real", "run-1")
        environment.open(references(), lambda name: "").close()
        environment.release()
        link = tmp_path / place
        link.parent.mkdir(mode=0o700, exist_ok=True)
        link.symlink_to(tmp_path / "real" / place.removeprefix("plan/").replace("plan", ""))
        for look in (names, tidy):
            with pytest.raises(JournalError, match="is a symbolic link"):
                look(parent)
        assert environment.file.exists()
