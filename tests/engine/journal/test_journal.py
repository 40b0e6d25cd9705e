"""The journal: what is on the disk when, and what happens when the disk fails."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_plan import Plan, Secret
from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.execution.run import Run
from pytest_plan.engine.journal import schema as tables
from pytest_plan.engine.journal import writer
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.null import Deferred
from pytest_plan.engine.journal.reader import Recorded, read
from pytest_plan.engine.journal.reference import References
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.model.outcomes import Hook
from pytest_plan.engine.model.results import StepError
from pytest_plan.engine.plan import begin
from tests.engine.support.no_threads import needs_limit, no_threads

REFERENCES = References(Path(__file__).parent)
LONGEST = 30.0  # real seconds that a child process may take


def undo(*words: Any, **named: Any) -> None:
    """What the steps of these tests defer."""


def wait_until(done: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    deadline = time.monotonic() + LONGEST
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.002)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the journal will be."""
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(file: Path) -> Iterator[Journal]:
    """A journal that can be written."""
    journal = Journal(file, REFERENCES, lambda step: f"print of {step}")
    yield journal
    journal.close()


def run_of(journal: Journal, *steps: GenericStep, **options: Any) -> Run:
    """Return the run of these steps."""
    plan = Plan(**options)
    for number, step in enumerate(steps):
        plan.add_step(step, name=f"s{number}")
    return begin(plan, journal=journal)


def run(journal: Journal, *steps: GenericStep, **options: Any) -> BaseException | None:
    """Provision and clean up; return what came of it."""
    begun = run_of(journal, *steps, **options)
    try:
        begun.provision()
    except JournalError as error:
        return error
    finally:
        begun.clean_up()
    errors = [record.error for record in begun.step_runs.values() if record.error is not None]
    return errors[0] if errors else begun.error()


def provision(
    journal: Journal, *steps: GenericStep, **options: Any
) -> tuple[Callable[[], None], Run]:
    """Provision alone; return what cleans up, and the run."""
    begun = run_of(journal, *steps, **options)
    begun.provision()
    return begun.clean_up, begun


def child(function: Callable[[], Any]) -> Any:
    """Call a function in a forked child; return its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = int(function() or 0)
        finally:
            os._exit(status)
    deadline = time.monotonic() + LONGEST
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.fail("the child hangs")
        time.sleep(0.002)


class TestWriteAhead:
    """What is durable before it is true."""

    def test_a_step_is_on_the_disk_before_its_code_runs(self, journal: Journal) -> None:
        """As running, with its edges and what will clean it up."""
        seen: list[Recorded] = []
        step = GenericStep(exec=lambda: seen.append(read(journal.file)), cleanup=undo)
        assert run(journal, GenericStep(exec=lambda: None), step) is None
        recorded = seen[0].steps["s1"]
        assert (recorded.outcome, recorded.after) == ("running", ("s0",))
        assert recorded.fingerprint == "print of s1"
        assert recorded.hook_is_due
        assert seen[0].steps["s0"].outcome == "succeeded"

    def test_a_deferred_call_is_on_the_disk_when_defer_returns(self, journal: Journal) -> None:
        """With function, arguments and hook."""
        seen: list[Recorded] = []

        def make(ctx: Context) -> None:
            ctx.defer(undo, 1, name={"x"})
            seen.append(read(journal.file))

        assert run(journal, GenericStep(exec=make)) is None
        (entry,) = seen[0].steps["s0"].undos
        assert (entry.kind, entry.hook, entry.label) == ("call", Hook.EXEC, "undo")

    def test_a_tree_is_on_the_disk_before_it_starts(self, journal: Journal) -> None:
        """Its cookie is; so it is found even when we die in the middle of starting it."""
        seen: list[tuple[str, str]] = []

        def make(ctx: Context) -> None:
            code = "import os, sqlite3, sys; print(sqlite3.connect('file:'+sys.argv[1]+'?mode=ro',"
            code += "uri=True).execute('SELECT data FROM undo').fetchone()[0], end='')"
            process = ctx.start([sys.executable, "-c", code, str(journal.file)])
            process.wait(LONGEST)
            seen.append((ctx._log.tail(), process.args[0]))

        assert run(journal, GenericStep(exec=make)) is None
        assert '"cookie"' in seen[0][0]

    def test_a_tree_has_its_process_on_the_disk_when_start_returns(self, journal: Journal) -> None:
        """A program that writes over its mark is found by it."""
        seen: list[tuple[str, int]] = []

        def make(ctx: Context) -> None:
            pid = ctx.start(["sleep", "30"]).pid
            seen.append((read(journal.file).steps["s0"].undos[0].data, pid))

        assert run(journal, GenericStep(exec=make)) is None
        data, pid = seen[0]
        assert json.loads(data)["pid"] == pid

    def test_a_cleanup_is_on_the_disk_before_it_runs(self, journal: Journal) -> None:
        """As pending, with one owner more; the outcome of the step is there, too."""
        seen: list[Recorded] = []
        step = GenericStep(cleanup=lambda: seen.append(read(journal.file)))
        assert run(journal, step) is None
        recorded = seen[0].steps["s0"]
        assert (recorded.cleanup, recorded.owners) == ("pending", 1)
        assert recorded.outcome == "succeeded"

    def test_a_step_that_only_cleans_up_is_on_the_disk(self, journal: Journal) -> None:
        """It has no code that could begin, and yet something to do when we are killed."""
        clean_up, _ = provision(journal, GenericStep(cleanup=lambda: None))
        journal.set(flushed=True)
        assert read(journal.file).steps["s0"].hook_is_due
        clean_up()
        assert read(journal.file).due() == []

    def test_a_value_that_cleanup_takes_is_on_the_disk_when_the_step_has_ended(
        self, journal: Journal
    ) -> None:
        """So no hook is ever called with something else in its place."""
        clean_up, _ = provision(journal, GenericStep(exec=lambda: 7, cleanup=lambda value: None))
        recorded = read(journal.file)
        assert (recorded.steps["s0"].outcome, recorded.state["s0"]) == ("succeeded", "7")
        clean_up()

    def test_a_hook_without_the_value_that_it_takes_is_not_due(self, journal: Journal) -> None:
        """The step was killed before it had made anything; another hook may have work to do."""
        seen: list[Recorded] = []
        for hook in (lambda value: None, lambda: None):
            step = GenericStep(exec=lambda: seen.append(read(journal.file)), cleanup=hook)
            clean_up, _ = provision(Journal(journal.file, REFERENCES), step)
            clean_up()
        assert [one.steps["s0"].outcome for one in seen] == ["running", "running"]
        assert [one.steps["s0"].hook_is_due for one in seen] == [False, True]

    def test_nothing_is_due_after_a_clean_run(self, journal: Journal) -> None:
        """Everything that was noted is noted as taken back."""

        def make(ctx: Context) -> None:
            ctx.defer(undo)
            ctx.start(["sleep", "60"])
            ctx.run(["true"])

        assert run(journal, GenericStep(exec=make, cleanup=lambda: None)) is None
        recorded = read(journal.file)
        assert recorded.due() == []
        assert recorded.steps["s0"].cleanup == "succeeded"

    def test_a_step_that_failed_keeps_its_log(self, journal: Journal) -> None:
        """Its tail; of one that succeeded nobody needs it."""

        def make(ctx: Context) -> None:
            ctx.log("what happened")
            raise ValueError

        run(journal, GenericStep(exec=make))
        with sqlite3.connect(journal.file) as connection:
            tail = connection.execute("SELECT log_tail FROM step").fetchone()[0]
        connection.close()
        assert tail == "what happened"


class TestWhatIsLost:
    """What no later process can do."""

    @pytest.mark.parametrize(
        ("call", "said"),
        [
            (lambda ctx: ctx.defer(lambda: None), "lambda"),
            (lambda ctx: ctx.defer(undo, object()), "a object cannot be written"),
            (lambda ctx: ctx.defer(undo, Secret("canary")), "a Secret cannot be written"),
            (lambda ctx: ctx.defer(threading.Event().set), "is no function of a module"),
        ],
    )
    def test_a_call_that_cannot_be_written_is_named(
        self, journal: Journal, call: Callable[[Context], None], said: str
    ) -> None:
        """With the reason; in this process it is made all the same."""
        clean_up, _ = provision(journal, GenericStep(exec=lambda ctx: call(ctx)))
        (entry,) = read(journal.file).steps["s0"].undos
        assert entry.kind == "lost"
        assert said in entry.data
        clean_up()
        assert read(journal.file).due() == []

    def test_a_value_that_cannot_be_written_is_named(self, journal: Journal) -> None:
        """In memory it is there; on the disk is why it is not."""
        clean_up, _ = provision(journal, GenericStep(exec=lambda: object()))
        journal.set(flushed=True)
        recorded = read(journal.file)
        assert recorded.state["s0"] is None
        assert "object" in recorded.lost["s0"]
        clean_up()

    def test_a_value_is_what_was_set(self, journal: Journal) -> None:
        """Changing it in place later changes nothing on the disk."""
        value = [1]
        clean_up, _ = provision(journal, GenericStep(exec=lambda: value))
        value.append(2)
        journal.set(flushed=True)
        assert read(journal.file).state["s0"] == "[1]"
        clean_up()

    def test_a_key_that_is_gone_is_gone(self, journal: Journal) -> None:
        """The last word counts."""

        def make(state: Any) -> None:
            state["a"], state["b"] = 1, 2
            state["a"] = 3
            del state["b"]

        provision(journal, GenericStep(exec=make))[0]()
        assert read(journal.file).state == {"a": "3"}


class TestSecrets:
    """What is nowhere in its bytes."""

    def test_a_known_secret_is_never_written(self, journal: Journal, tmp_path: Path) -> None:
        """In whatever a user hides it by accident: a URL, an argument, a variable, a log."""

        def make(ctx: Context, state: Any) -> None:
            state["password"] = Secret("canary/äß")
            state["dsn"] = "postgres://me:canary/äß@host"
            ctx.defer(undo, "canary/äß")
            ctx.defer(undo, **{"canary/äß": 1})
            ctx.setenv("PASSWORD", "canary/äß")
            ctx.log("canary/äß")
            raise ValueError("canary/äß")

        run(journal, GenericStep(exec=make))
        journal.close()
        found = b"".join(path.read_bytes() for path in tmp_path.glob("journal*"))
        assert b"canary" not in found
        recorded = read(journal.file)
        assert recorded.state == {"password": None, "dsn": None}
        assert recorded.lost["dsn"] == "it holds a secret"


class TestNumbers:
    """What names an entry."""

    def test_they_go_on_where_another_process_ended(self, file: Path) -> None:
        """Two entries never have the same."""
        call = Deferred(undo, (), {})
        first = Journal(file, REFERENCES)
        numbers = [first.deferred("s0", Hook.EXEC, "undo", call) for _ in range(3)]
        first.close()
        second = Journal(file, REFERENCES)
        numbers.append(second.deferred("s0", Hook.EXEC, "undo", call))
        second.close()
        assert numbers == [1, 2, 3, 4]

    def test_text_that_is_no_utf8_stops_nobody(self, journal: Journal) -> None:
        """Names of files and programs may be anything."""
        name = os.fsdecode(b"\xff")
        number = journal.deferred("s0", Hook.EXEC, name, Deferred(undo, (name,), {}))
        journal.state_set(name, journal.lasting(name))
        journal.set(flushed=True)
        assert number == 1
        assert journal.failure is None


class TestFile:
    """The file itself."""

    def test_it_is_ours_alone(self, journal: Journal) -> None:
        """Whatever the umask."""
        journal.set(a=1)
        modes = {path.stat().st_mode & 0o777 for path in journal.file.parent.glob("journal*")}
        assert modes == {0o600}

    def test_it_is_never_half_made(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Until it is whole it has another name; what is left of that is no obstacle."""
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", lambda self, target: os._exit(7))
            assert child(lambda: Journal(file, REFERENCES)) == 7
        assert not file.exists()
        assert (file.parent / "journal.sqlite.new").exists()
        Journal(file, REFERENCES).close()
        assert [path.name for path in file.parent.iterdir()] == ["journal.sqlite"]
        assert read(file).steps == {}

    def test_a_link_in_its_place_is_not_followed(self, file: Path, tmp_path: Path) -> None:
        """Nothing is made where it leads."""
        (tmp_path / "journal.sqlite.new").symlink_to(tmp_path / "elsewhere")
        Journal(file, REFERENCES).close()
        assert not (tmp_path / "elsewhere").exists()
        assert not file.is_symlink()

    def test_garbage_in_its_place_is_refused(self, file: Path) -> None:
        """And left as it is."""
        file.write_bytes(b"garbage" * 1000)
        with pytest.raises(JournalError, match="cannot be continued"):
            Journal(file, REFERENCES)
        assert file.read_bytes() == b"garbage" * 1000

    def test_who_writes_after_the_end_is_told(self, file: Path) -> None:
        """A step that was left behind does not wait for ever."""
        journal = Journal(file, REFERENCES)
        journal.close()
        with pytest.raises(JournalError, match="closed"):
            journal.set(a=1)


class TestGroupCommit:
    """Many at once cost one commit."""

    def test_threads_share_commits(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever comes while one is written is in the next one, with all others who came."""
        write, batches = journal._writer._write, []
        entered, gate = threading.Event(), threading.Event()

        def held(connection: sqlite3.Connection, batch: Any) -> None:
            batches.append(len(batch))
            entered.set()
            gate.wait(LONGEST)
            write(connection, batch)

        def defer() -> None:
            journal.deferred("s0", Hook.EXEC, "undo", Deferred(undo, (), {}))

        monkeypatch.setattr(journal._writer, "_write", held)
        threads = [threading.Thread(target=defer) for _ in range(16)]
        threads[0].start()
        assert entered.wait(LONGEST)
        for thread in threads[1:]:
            thread.start()
        wait_until(lambda: len(journal._writer._requests) == 15)
        gate.set()
        for thread in threads:
            thread.join(LONGEST)
        assert batches == [1, 15]

    def test_who_waits_writes(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        """And takes along what others have noted; what the main thread needs another writes."""
        write, writers = journal._writer._write, []

        def named(connection: sqlite3.Connection, batch: Any) -> None:
            writers.append((threading.current_thread().name, len(batch)))
            write(connection, batch)

        monkeypatch.setattr(writer, "_LINGER", LONGEST)
        monkeypatch.setattr(journal._writer, "_write", named)
        journal.state_set("a", journal.lasting(1))
        step = threading.Thread(target=journal.flush, name="step")
        step.start()
        step.join(LONGEST)
        journal.flush()
        assert writers == [("step", 2), ("plan-journal", 1)]

    def test_what_nobody_waits_for_is_written_soon(self, journal: Journal) -> None:
        """Without anything after it that would take it along."""
        journal.state_set("a", journal.lasting(1))
        wait_until(lambda: "a" in read(journal.file).state)

    def test_a_commit_seldom_makes_the_log_longer(self, journal: Journal) -> None:
        """That is what takes long; who reads ends where the writer did."""
        log, sizes = Path(f"{journal.file}-wal"), set()
        for number in range(100):
            journal.set(**{f"fact {number}": number})
            sizes.add(log.stat().st_size)
        assert len(sizes) < 40
        assert len(read(journal.file).facts) == 100

    def test_all_is_on_the_disk_when_provisioning_has_ended(self, journal: Journal) -> None:
        """Also what nobody waited for: from now on tests run, which may kill us."""

        def make(state: Any) -> None:
            state["a"] = 1

        clean_up, _ = provision(journal, GenericStep(exec=make))
        recorded = read(journal.file)
        assert (recorded.state, recorded.steps["s0"].outcome) == ({"a": "1"}, "succeeded")
        clean_up()

    def test_an_empty_step_costs_two_commits(
        self, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That somebody waits for: its begin, and that of its cleanup; and the plan one more."""
        waited, durably = [], journal._writer.durably

        def counting(statements: Any) -> None:
            waited.append(statements)
            durably(statements)

        monkeypatch.setattr(journal._writer, "durably", counting)
        steps = [GenericStep(exec=lambda: None, cleanup=lambda: None) for _ in range(5)]
        assert run(journal, *steps) is None
        assert len(waited) == 2 * 5 + 1


class TestFork:
    """A child that a step forks."""

    def test_it_writes_nothing(self, journal: Journal) -> None:
        """Nothing of it is ours to note; and it breaks nothing when it ends."""

        def do() -> int:
            number = journal.deferred("s0", Hook.EXEC, "child", Deferred(undo, (), {}))
            journal.set(child=True)
            journal.state_set("child", journal.lasting(1))
            journal.close()
            return 0 if number == 2 else 1

        journal.deferred("s0", Hook.EXEC, "parent", Deferred(undo, (), {}))
        assert child(do) == 0
        journal.set(parent=True)
        with sqlite3.connect(journal.file) as connection:
            labels = [label for (label,) in connection.execute("SELECT label FROM undo")]
            keys = {key for (key,) in connection.execute("SELECT key FROM environment")}
        connection.close()
        assert (labels, keys) == (["parent"], {"parent"})


def made(*names: str) -> list[GenericStep]:
    """Return steps that note, in files, that they were made and cleaned up."""

    def step(name: str) -> GenericStep:
        def make(ctx: Context, state: Any) -> None:
            ctx.defer(Path(f"{name}.deferred").touch)
            Path(f"{name}.made").touch()
            state[name] = "x" * 5000

        return GenericStep(exec=make, cleanup=Path(f"{name}.cleaned").touch)

    return [step(name) for name in names]


def judge(folder: Path, error: BaseException | None) -> None:
    """Check that what began was cleaned up, whatever the disk did."""
    begun = {path.stem for path in folder.glob("*.made")}
    done = {path.stem for path in folder.glob("*.deferred")}
    assert begun <= done
    if error is not None:
        reason = error.__cause__ if isinstance(error, StepError) else error
        assert isinstance(reason, JournalError), repr(reason)
        assert "cannot be written" in str(reason)
        assert "set plan_dir to another folder" in str(reason)


class TestFailingDisk:
    """Provisioning stops with the reason, and what has begun is cleaned up from memory."""

    @pytest.fixture(autouse=True)
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Where the steps note what they do."""
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @pytest.mark.parametrize("continues", [False, True])
    def test_a_full_disk(self, file: Path, here: Path, continues: bool) -> None:
        """At each size of the database, until one is large enough."""
        failed, connect = 0, tables.connect
        for pages in range(6, 60, 3):

            def limited(path: Path, pages: int = pages) -> sqlite3.Connection:
                connection = connect(path)
                connection.execute(f"PRAGMA max_page_count = {pages}")
                return connection

            with pytest.MonkeyPatch.context() as patch:
                Journal(file, REFERENCES).close()
                patch.setattr(writer, "connect", limited)
                journal = Journal(file, REFERENCES)
                error = run(journal, *made("a", "b", "c"), continue_on_error=continues)
            judge(here, error)
            failed += journal.failure is not None
            if journal.failure is None:
                assert len(list(here.glob("*.cleaned"))) == 3
                break
            assert "full" in str(journal.failure)
            for path in here.iterdir():
                path.unlink()
        else:
            pytest.fail("it was never large enough")
        assert failed >= 2

    def test_the_nth_byte_cannot_be_written(self, file: Path, here: Path) -> None:
        """By RLIMIT_FSIZE: at each 4 KiB until all fit; no signal, no hang, no torn journal."""

        def do(size: int) -> int:
            sys.dont_write_bytecode = True  # it would be cut off
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            journal = Journal(file, REFERENCES)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            error = run(journal, *made("a", "b", "c"))
            judge(here, error)
            return 7 if journal.failure is not None else 0

        statuses = []
        for size in range(4096, 400_000, 4096):
            statuses.append(child(lambda size=size: do(size)))  # type: ignore[misc]
            read(file)
            for path in here.iterdir():
                path.unlink()
            if statuses[-1] == 0:
                break
        assert set(statuses) == {0, 7}

    @pytest.mark.parametrize("what", ["deleted", "replaced", "folder"])
    def test_the_file_goes_away(self, file: Path, here: Path, what: str) -> None:
        """Noticed at the next write that counts."""
        folder = here / "journal"
        folder.mkdir()
        journal = Journal(folder / file.name, REFERENCES)

        def spoil() -> None:
            if what == "folder":
                shutil.rmtree(folder)
                return
            journal.file.unlink()
            if what == "replaced":
                journal.file.write_bytes(b"")

        first, second = made("a", "b")
        error = run(journal, first, GenericStep(exec=spoil), second)
        judge(here, error)
        assert error is not None
        assert not Path("b.made").exists()
        assert Path("a.cleaned").exists()

    def test_a_folder_that_cannot_be_written(self, here: Path) -> None:
        """Refused at once, with the reason; as somebody who is not root."""
        folder = here / "closed"
        folder.mkdir(0o500)
        here.chmod(0o777)

        def do() -> int:
            if os.geteuid() == 0:
                os.chown(folder, 65534, 65534)
                for parent in folder.parents:
                    if not parent.stat().st_mode & 1:
                        parent.chmod(parent.stat().st_mode | 0o011)
                os.seteuid(65534)
            try:
                Journal(folder / "journal.sqlite", REFERENCES)
            except JournalError as error:
                return 7 if "cannot be made" in str(error) else 1
            return 2

        assert child(do) == 7

    def test_what_nobody_waits_for_fails_silently_until_it_matters(self, file: Path) -> None:
        """Nothing that only helps ends a plan; the next thing that counts says why."""
        journal = Journal(file, REFERENCES)
        file.unlink()
        journal.state_set("a", journal.lasting(1))
        journal.undone(1)
        with pytest.raises(JournalError):
            journal.set(a=1)
        journal.close()

    def test_a_cleanup_runs_when_it_cannot_be_noted(self, file: Path, here: Path) -> None:
        """The disk fails in between: no cleanup is given up for that."""
        journal = Journal(file, REFERENCES)
        clean_up, _ = provision(journal, *made("a", "b"))
        file.unlink()
        clean_up()
        assert {path.name for path in here.glob("*.cleaned")} == {"a.cleaned", "b.cleaned"}

    def test_what_was_made_before_a_defer_that_fails_is_undone(
        self, file: Path, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In memory it is registered; so is a variable."""
        journal = Journal(file, REFERENCES)

        def make(ctx: Context) -> None:
            file.unlink()
            try:
                ctx.defer(Path("undone").touch)
            finally:
                ctx.setenv("JOURNAL_TEST", "1")

        error = run(journal, GenericStep(exec=make, cleanup=Path("cleaned").touch))
        assert isinstance(error, StepError)
        assert {path.name for path in here.iterdir()} >= {"undone"}
        assert "JOURNAL_TEST" not in os.environ

    def test_a_step_that_could_not_begin_is_not_cleaned_up(self, file: Path, here: Path) -> None:
        """Not even one that is cleaned up when it was attempted: none of its code ran."""
        journal = Journal(file, REFERENCES)
        file.unlink()
        plan = Plan()
        plan.add_step(*made("a"), name="s0", cleanup_when="attempted")
        begun = begin(plan, journal=journal)
        begun.provision()
        begun.clean_up()
        assert list(here.glob("a.*")) == []

    @needs_limit
    def test_no_thread_for_the_journal(self, file: Path) -> None:
        """It says so, and leaves nothing that the next would have to look at."""
        with no_threads(), pytest.raises(JournalError, match="can't start new thread"):
            Journal(file, REFERENCES)
        assert not file.exists()

    @needs_limit
    def test_a_step_that_could_not_begin_at_first_is_on_the_disk_when_it_does(
        self, journal: Journal
    ) -> None:
        """Its first attempt had no thread: it is the second that is noted before its code runs."""
        seen: list[str] = []
        start = threading.Thread.start
        with pytest.MonkeyPatch.context() as patch:

            def start_none(thread: threading.Thread) -> None:
                patch.undo()
                with no_threads():
                    start(thread)

            plan = Plan()
            plan.add_step(
                GenericStep(exec=lambda: seen.append(read(journal.file).steps["s0"].outcome)),
                name="s0", retries=1, retry_wait="10ms",
            )  # fmt: skip
            begun = begin(plan, journal=journal)
            patch.setattr(threading.Thread, "start", start_none)
            begun.provision()
        begun.clean_up()
        assert seen == ["running"]
        assert len(begun.step_runs["s0"].attempts) == 2

    def test_whoever_waits_at_the_end_is_answered(self, file: Path) -> None:
        """The write fails in the batch that is the last one."""
        journal = Journal(file, REFERENCES)
        gate, write = threading.Event(), journal._writer._write

        def slow(connection: sqlite3.Connection, batch: Any) -> None:
            gate.wait(LONGEST)
            write(connection, batch)

        journal._writer._write = slow  # type: ignore[method-assign]
        file.unlink()
        errors: list[BaseException] = []

        def wait() -> None:
            try:
                journal.set(a=1)
            except JournalError as error:
                errors.append(error)

        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        closing = threading.Thread(target=journal.close)
        closing.start()
        gate.set()
        for thread in (*threads, closing):
            thread.join(LONGEST)
            assert not thread.is_alive()
        assert len(errors) == 3


def test_a_plain_script_can_have_one(tmp_path: Path) -> None:
    """The engine knows no pytest."""
    code = f"""
        from pathlib import Path
        from pytest_plan import Plan, GenericStep
        from pytest_plan.engine.journal.journal import Journal
        from pytest_plan.engine.journal.reference import References
        from pytest_plan.engine.plan import begin
        journal = Journal(Path({str(tmp_path / "j.sqlite")!r}), References(Path.cwd()))
        plan = Plan()
        plan.add_step(GenericStep(exec=lambda: 1), name="one")
        run = begin(plan, journal=journal)
        run.provision()
        run.clean_up()
        import sys
        assert "pytest" not in sys.modules, "pytest is loaded"
    """
    status = os.spawnv(
        os.P_WAIT, sys.executable, [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    )
    assert status == 0
    assert read(tmp_path / "j.sqlite").steps["one"].outcome == "succeeded"
