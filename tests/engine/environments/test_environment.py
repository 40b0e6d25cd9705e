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

from pytest_plan.engine.environments.environment import BusyError, Environment, claimed, names
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
        with pytest.raises(BusyError, match="'staging' is in use; wait"):
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
        assert [path.name for path in parent.iterdir()] == ["artifacts"]

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

    def test_a_journal_that_others_can_read_is_not_read(self, parent: Path) -> None:
        """Other users may have written it."""
        environment = Environment(parent, "run-1")
        environment.open(references(), lambda name: "").close()
        environment.file.chmod(0o644)
        with pytest.raises(JournalError, match="chmod 600"):
            environment.recorded()
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
