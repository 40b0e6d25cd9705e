"""The journal: when records are on the disk, and what happens when the disk fails."""

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
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.null import Deferred
from pytest_plan.engine.journal.reader import Recorded, read
from pytest_plan.engine.journal.reference import References
from pytest_plan.engine.journal.seal import Seal
from pytest_plan.engine.journal.writing import transaction, writer
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.model.outcomes import Hook
from pytest_plan.engine.model.results import StepError
from pytest_plan.engine.plan import begin
from tests.engine.support.no_threads import needs_limit, no_threads

REFERENCES = References(Path(__file__).parent)
LONGEST = 30.0  # maximum real seconds for a child process


def undo(*words: Any, **named: Any) -> None:
    """The function that the steps of these tests defer."""


def wait_until(done: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + LONGEST
    while not done():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.002)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of the journal, which does not exist yet."""
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(file: Path) -> Iterator[Journal]:
    """A new journal."""
    journal = Journal(file, REFERENCES, lambda step: f"print of {step}")
    yield journal
    journal.close()


@pytest.fixture
def lasting(file: Path) -> Iterator[Journal]:
    """A new journal of an environment that outlives its run, so that all values are written."""
    journal = Journal(file, REFERENCES, lambda step: f"print of {step}", outlives=True)
    yield journal
    journal.close()


def run_of(journal: Journal, *steps: GenericStep, **options: Any) -> Run:
    """Return a run of these steps that has not started."""
    plan = Plan(**options)
    for number, step in enumerate(steps):
        plan.add_step(step, name=f"s{number}")
    return begin(plan, journal=journal)


def run(journal: Journal, *steps: GenericStep, **options: Any) -> BaseException | None:
    """Provision and clean up; return the error, or None."""
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
    """Provision only; return the function that cleans up, and the run."""
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
    """Records that are on the disk before the thing itself happens."""

    def test_a_step_is_on_the_disk_before_its_code_runs(self, journal: Journal) -> None:
        """It is recorded as running, with its edges, its fingerprint and its cleanup hook."""
        seen: list[Recorded] = []
        step = GenericStep(exec=lambda: seen.append(read(journal.file)), cleanup=undo)
        assert run(journal, GenericStep(exec=lambda: None), step) is None
        recorded = seen[0].steps["s1"]
        assert (recorded.outcome, recorded.after) == ("running", ("s0",))
        assert recorded.fingerprint == "print of s1"
        assert recorded.hook_is_due
        assert seen[0].steps["s0"].outcome == "succeeded"

    def test_a_deferred_call_is_on_the_disk_when_defer_returns(self, journal: Journal) -> None:
        """The entry has the function, its arguments and the hook."""
        seen: list[Recorded] = []

        def make(ctx: Context) -> None:
            ctx.defer(undo, 1, name={"x"})
            seen.append(read(journal.file))

        assert run(journal, GenericStep(exec=make)) is None
        (entry,) = seen[0].steps["s0"].undos
        assert (entry.kind, entry.hook, entry.label) == ("call", Hook.EXEC, "undo")

    def test_a_tree_is_on_the_disk_before_it_starts(self, journal: Journal) -> None:
        """Its cookie is recorded, so the tree is found even if pytest dies while starting it."""
        seen: list[tuple[str, str]] = []

        def make(ctx: Context) -> None:
            code = "import os, sqlite3, sys; print(sqlite3.connect('file:'+sys.argv[1]+'?mode=ro',"
            code += "uri=True).execute('SELECT data FROM undo').fetchone()[0], end='')"
            process = ctx.start([sys.executable, "-c", code, str(journal.file)])
            process.wait(LONGEST)
            seen.append((ctx._log.tail(), process.args[0]))

        assert run(journal, GenericStep(exec=make)) is None
        assert '"cookie"' in seen[0][0]

    def test_the_root_of_a_tree_is_on_the_disk_when_start_returns(self, journal: Journal) -> None:
        """A program that overwrites its cookie can be found by its pid."""
        seen: list[tuple[str, int]] = []

        def make(ctx: Context) -> None:
            pid = ctx.start(["sleep", "30"]).pid
            seen.append((read(journal.file).steps["s0"].undos[0].data, pid))

        assert run(journal, GenericStep(exec=make)) is None
        data, pid = seen[0]
        assert json.loads(data)["pid"] == pid

    def test_a_cleanup_is_on_the_disk_before_it_runs(self, journal: Journal) -> None:
        """It is recorded as pending with one more owner, together with the step's outcome."""
        seen: list[Recorded] = []
        step = GenericStep(cleanup=lambda: seen.append(read(journal.file)))
        assert run(journal, step) is None
        recorded = seen[0].steps["s0"]
        assert (recorded.cleanup, recorded.owners) == ("pending", 1)
        assert recorded.outcome == "succeeded"

    def test_a_step_that_only_cleans_up_is_on_the_disk(self, journal: Journal) -> None:
        """It runs no exec hook, but its cleanup hook is due if pytest is killed."""
        clean_up, _ = provision(journal, GenericStep(cleanup=lambda: None))
        journal.set(flushed=True)
        assert read(journal.file).steps["s0"].hook_is_due
        clean_up()
        assert read(journal.file).due() == []

    def test_a_value_that_cleanup_takes_is_on_the_disk_when_the_step_has_ended(
        self, journal: Journal
    ) -> None:
        """A later process can call the cleanup hook with the right value."""
        clean_up, _ = provision(journal, GenericStep(exec=lambda: 7, cleanup=lambda value: None))
        recorded = read(journal.file)
        assert (recorded.steps["s0"].outcome, recorded.state["s0"]) == ("succeeded", "7")
        clean_up()

    def test_a_hook_without_the_value_that_it_takes_is_not_due(self, journal: Journal) -> None:
        """A step killed before it had a value has nothing that such a hook could remove."""
        seen: list[Recorded] = []
        for hook in (lambda value: None, lambda: None):
            step = GenericStep(exec=lambda: seen.append(read(journal.file)), cleanup=hook)
            clean_up, _ = provision(Journal(journal.file, REFERENCES), step)
            clean_up()
        assert [one.steps["s0"].outcome for one in seen] == ["running", "running"]
        assert [one.steps["s0"].hook_is_due for one in seen] == [False, True]

    def test_nothing_is_due_after_a_clean_run(self, journal: Journal) -> None:
        """Every recorded entry is also recorded as undone."""

        def make(ctx: Context) -> None:
            ctx.defer(undo)
            ctx.start(["sleep", "60"])
            ctx.run(["true"])

        assert run(journal, GenericStep(exec=make, cleanup=lambda: None)) is None
        recorded = read(journal.file)
        assert recorded.due() == []
        assert recorded.steps["s0"].cleanup == "succeeded"

    def test_a_step_that_failed_keeps_its_log(self, journal: Journal) -> None:
        """The tail of the log of a failed step is recorded."""

        def make(ctx: Context) -> None:
            ctx.log("what happened")
            raise ValueError

        run(journal, GenericStep(exec=make))
        with sqlite3.connect(journal.file) as connection:
            tail = connection.execute("SELECT log_tail FROM step").fetchone()[0]
        connection.close()
        assert tail == "what happened"


class TestWhatIsLost:
    """Calls and values that no later process can use."""

    @pytest.mark.parametrize(
        ("call", "reason"),
        [
            (lambda ctx: ctx.defer(lambda: None), "lambda"),
            (lambda ctx: ctx.defer(undo, object()), "type 'object' cannot be written as JSON"),
            (
                lambda ctx: ctx.defer(undo, Secret("canary")),
                "type 'Secret' cannot be written as JSON",
            ),
            (lambda ctx: ctx.defer(threading.Event().set), "is not a module-level function"),
        ],
    )
    def test_a_call_that_cannot_be_written_is_recorded_as_lost(
        self, journal: Journal, call: Callable[[Context], None], reason: str
    ) -> None:
        """The entry has the reason, and this process makes the call anyway."""
        clean_up, _ = provision(journal, GenericStep(exec=lambda ctx: call(ctx)))
        (entry,) = read(journal.file).steps["s0"].undos
        assert entry.kind == "lost"
        assert reason in entry.data
        clean_up()
        assert read(journal.file).due() == []

    def test_a_value_that_cannot_be_written_is_recorded_as_lost(self, lasting: Journal) -> None:
        """The value stays in memory, and the journal has the reason."""
        clean_up, _ = provision(lasting, GenericStep(exec=lambda: object()))
        lasting.set(flushed=True)
        recorded = read(lasting.file)
        assert recorded.state["s0"] is None
        assert "object" in recorded.lost["s0"]
        clean_up()

    def test_a_value_is_recorded_as_it_was_when_it_was_set(self, lasting: Journal) -> None:
        """Changing it in place later does not change the journal."""
        value = [1]
        clean_up, _ = provision(lasting, GenericStep(exec=lambda: value))
        value.append(2)
        lasting.set(flushed=True)
        assert read(lasting.file).state["s0"] == "[1]"
        clean_up()

    def test_the_last_change_of_a_key_counts(self, lasting: Journal) -> None:
        """A key has its last value, and a removed key is missing."""

        def make(state: Any) -> None:
            state["a"], state["b"] = 1, 2
            state["a"] = 3
            del state["b"]

        provision(lasting, GenericStep(exec=make))[0]()
        assert read(lasting.file).state == {"a": "3"}


class TestSecrets:
    """Values that must not appear in the bytes of the journal."""

    def test_a_known_secret_is_never_written(self, lasting: Journal, tmp_path: Path) -> None:
        """It is left out even inside a URL, an argument, a variable or a log."""

        def make(ctx: Context, state: Any) -> None:
            state["password"] = Secret("canary/äß")
            state["dsn"] = "postgres://me:canary/äß@host"
            ctx.defer(undo, "canary/äß")
            ctx.defer(undo, **{"canary/äß": 1})
            ctx.setenv("PASSWORD", "canary/äß")
            ctx.log("canary/äß")
            raise ValueError("canary/äß")

        run(lasting, GenericStep(exec=make))
        lasting.close()
        found = b"".join(path.read_bytes() for path in tmp_path.glob("journal*"))
        assert b"canary" not in found
        recorded = read(lasting.file)
        assert recorded.state == {"password": None, "dsn": None}
        assert recorded.lost["dsn"] == "it contains a secret"


class TestNumbers:
    """The numbers that identify entries."""

    def test_they_continue_where_an_earlier_process_ended(self, file: Path) -> None:
        """Two entries never have the same number."""
        call = Deferred(undo, (), {})
        first = Journal(file, REFERENCES)
        numbers = [first.deferred("s0", Hook.EXEC, "undo", call) for _ in range(3)]
        first.close()
        second = Journal(file, REFERENCES)
        numbers.append(second.deferred("s0", Hook.EXEC, "undo", call))
        second.close()
        assert numbers == [1, 2, 3, 4]

    def test_text_that_is_not_utf8_can_be_written(self, journal: Journal) -> None:
        """Names of files and programs can have any bytes."""
        name = os.fsdecode(b"\xff")
        number = journal.deferred("s0", Hook.EXEC, name, Deferred(undo, (name,), {}))
        journal.state_set(name, journal.lasting(name))
        journal.set(flushed=True)
        assert number == 1
        assert journal.failure is None


class TestFile:
    """The file of the journal."""

    def test_only_its_owner_can_read_it(self, journal: Journal) -> None:
        """The files have mode 0600 with any umask."""
        journal.set(a=1)
        modes = {path.stat().st_mode & 0o777 for path in journal.file.parent.glob("journal*")}
        assert modes == {0o600}

    def test_it_is_never_incomplete(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Until it is complete it has another name, and a leftover of that is replaced."""
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", lambda self, target: os._exit(7))
            assert child(lambda: Journal(file, REFERENCES)) == 7
        assert not file.exists()
        assert (file.parent / "journal.sqlite.new").exists()
        Journal(file, REFERENCES).close()
        assert [path.name for path in file.parent.iterdir()] == ["journal.sqlite"]
        assert read(file).steps == {}

    def test_a_link_in_its_place_is_not_followed(self, file: Path, tmp_path: Path) -> None:
        """Nothing is created at the target of the link."""
        (tmp_path / "journal.sqlite.new").symlink_to(tmp_path / "elsewhere")
        Journal(file, REFERENCES).close()
        assert not (tmp_path / "elsewhere").exists()
        assert not file.is_symlink()

    def test_a_file_with_garbage_is_refused(self, file: Path) -> None:
        """The file is left unchanged."""
        file.write_bytes(b"garbage" * 1000)
        with pytest.raises(JournalError, match="cannot be opened for writing"):
            Journal(file, REFERENCES)
        assert file.read_bytes() == b"garbage" * 1000

    def test_writing_after_close_is_an_error(self, file: Path) -> None:
        """An abandoned step does not wait forever."""
        journal = Journal(file, REFERENCES)
        journal.close()
        with pytest.raises(JournalError, match="closed"):
            journal.set(a=1)


class TestGroupCommit:
    """Many requests at once cost one commit."""

    def test_threads_share_commits(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        """All requests that arrive during a commit are in the next one."""
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

    def test_a_waiting_thread_writes(
        self, lasting: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It also writes queued records; for the main thread the writer's thread does it."""
        write, writers = lasting._writer._write, []

        def named(connection: sqlite3.Connection, batch: Any) -> None:
            writers.append((threading.current_thread().name, len(batch)))
            write(connection, batch)

        monkeypatch.setattr(writer, "_LINGER", LONGEST)
        monkeypatch.setattr(lasting._writer, "_write", named)
        lasting.state_set("a", lasting.lasting(1))
        step = threading.Thread(target=lasting.flush, name="step")
        step.start()
        step.join(LONGEST)
        lasting.flush()
        assert writers == [("step", 2), ("plan-journal", 1)]

    def test_a_record_that_no_thread_waits_for_is_written_soon(self, lasting: Journal) -> None:
        """It does not need a later durable record."""
        lasting.state_set("a", lasting.lasting(1))
        wait_until(lambda: "a" in read(lasting.file).state)

    def test_a_commit_rarely_extends_the_log(self, journal: Journal) -> None:
        """Extending the file is slow, and readers ignore the padding."""
        log, sizes = Path(f"{journal.file}-wal"), set()
        for number in range(100):
            journal.set(**{f"fact {number}": number})
            sizes.add(log.stat().st_size)
        assert len(sizes) < 40
        assert len(read(journal.file).facts) == 102  # its id and its place, too

    def test_everything_is_on_the_disk_when_provisioning_has_ended(self, lasting: Journal) -> None:
        """This includes records that no thread waits for, because a test may kill pytest."""

        def make(state: Any) -> None:
            state["a"] = 1

        clean_up, _ = provision(lasting, GenericStep(exec=make))
        recorded = read(lasting.file)
        assert (recorded.state, recorded.steps["s0"].outcome) == ({"a": "1"}, "succeeded")
        clean_up()

    @pytest.mark.parametrize(
        ("kind", "commits", "as_before"),
        [("plain", 0, 1), ("generator", 1, 2), ("defer", 2, 3), ("hook", 2, 2), ("program", 2, 4)],
    )
    def test_a_commit_is_durable_where_another_process_has_something_to_do(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, kind: str, commits: int, as_before: int
    ) -> None:
        """A plan costs one more. If a later run may use the steps, each is recorded at once."""

        def generator() -> Iterator[None]:
            yield

        steps: dict[str, Callable[[], GenericStep]] = {
            "plain": lambda: GenericStep(exec=lambda: None),
            "generator": lambda: GenericStep(exec=generator),
            "defer": lambda: GenericStep(exec=lambda ctx: ctx.defer(undo)),
            "hook": lambda: GenericStep(exec=lambda: None, cleanup=lambda: None),
            "program": lambda: GenericStep(exec=lambda ctx: ctx.start(["sleep", "60"]) and None),
        }
        durably, waited = writer.Writer.durably, []

        def counting(self: writer.Writer, statements: Any) -> None:
            waited.append(statements)
            durably(self, statements)

        monkeypatch.setattr(writer.Writer, "durably", counting)
        for outlives, each in ((False, commits), (True, as_before)):
            journal = Journal(file.with_name(str(outlives)), REFERENCES, outlives=outlives)
            first = 1 + (kind == "program")  # the folder of the run is recorded once
            waited.clear()
            assert run(journal, *(steps[kind]() for _ in range(2))) is None
            assert len(waited) == 2 * each + first

    def test_what_nobody_waits_for_is_on_the_disk_with_the_next_durable_commit(
        self, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Other processes see it before, and a durable commit of nothing takes it along, too."""
        synced: list[int] = []
        sync = transaction.PaddedLog.sync

        def counting(self: transaction.PaddedLog) -> None:
            synced.append(1)
            sync(self)

        monkeypatch.setattr(transaction.PaddedLog, "sync", counting)
        journal.scratch(Path("folder"))
        journal._values.want_all()
        journal.state_set("a", journal.lasting(1))
        wait_until(lambda: "a" in read(journal.file).state)
        connection = journal._writer._connection
        assert connection is not None
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
        assert (level, synced) == (1, [])  # NORMAL
        journal.flush()
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
        assert (level, synced) == (2, [1])  # FULL

    def test_a_plain_step_does_not_begin_once_the_journal_has_failed(self, file: Path) -> None:
        """Nothing that it makes could be recorded."""
        journal, ran = Journal(file, REFERENCES), []
        file.unlink()
        with pytest.raises(JournalError):
            journal.flush()
        error = run(journal, GenericStep(exec=lambda: ran.append(1)))
        assert isinstance(error, StepError)
        assert ran == []

    def test_nothing_is_recorded_before_it_is_known(self, journal: Journal) -> None:
        """The next step has not begun while a step runs, and no other cleanup has begun."""
        seen: list[Recorded] = []

        def look() -> None:
            seen.append(read(journal.file))

        steps = [GenericStep(exec=look, cleanup=look) for _ in range(3)]
        assert run(journal, *steps) is None
        begun, cleaned = seen[:3], seen[3:]
        assert [len(one.steps) for one in begun] == [1, 2, 3]
        assert [list(one.steps.values())[-1].outcome for one in begun] == ["running"] * 3
        owners = [[step.owners for step in one.steps.values()] for one in cleaned]
        assert owners == [[0, 0, 1], [0, 1, 1], [1, 1, 1]]


class TestFork:
    """A child process forked by a step."""

    def test_it_writes_nothing(self, journal: Journal) -> None:
        """It records nothing, and its end does not affect the journal."""

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
        assert (labels, keys) == (["parent"], {"id", "place", "parent"})


def made(*names: str) -> list[GenericStep]:
    """Return steps that create files when they run and when they are cleaned up."""

    def step(name: str) -> GenericStep:
        def make(ctx: Context, state: Any) -> None:
            ctx.defer(Path(f"{name}.deferred").touch)
            Path(f"{name}.made").touch()
            state[name] = "x" * 5000

        return GenericStep(exec=make, cleanup=Path(f"{name}.cleaned").touch)

    return [step(name) for name in names]


def judge(folder: Path, error: BaseException | None) -> None:
    """Check that every step that began was cleaned up, and that the error says what to do."""
    begun = {path.stem for path in folder.glob("*.made")}
    done = {path.stem for path in folder.glob("*.deferred")}
    assert begun <= done
    if error is not None:
        reason = error.__cause__ if isinstance(error, StepError) else error
        assert isinstance(reason, JournalError), repr(reason)
        assert "cannot be written" in str(reason)
        assert "set plan_dir to another folder" in str(reason)


class TestFailingDisk:
    """Provisioning stops with the reason, and the steps are cleaned up from memory."""

    @pytest.fixture(autouse=True)
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The folder for the files of the steps."""
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @pytest.mark.parametrize("continues", [False, True])
    def test_a_full_disk(self, file: Path, here: Path, continues: bool) -> None:
        """The disk is full at each size of the database, up to one that is large enough."""
        failed, connect = 0, tables.connect
        for pages in range(6, 60, 3):

            def limited(path: Path, seal: Seal, pages: int = pages) -> sqlite3.Connection:
                connection = connect(path, seal)
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

    def test_a_file_size_limit(self, file: Path, here: Path) -> None:
        """At each RLIMIT_FSIZE there is no signal, no hang and no damaged journal."""

        def do(size: int) -> int:
            sys.dont_write_bytecode = True  # bytecode files would be truncated
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
    def test_a_file_that_disappears_is_noticed(self, file: Path, here: Path, what: str) -> None:
        """The next durable record fails, and no further step runs."""
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

    def test_a_folder_that_is_not_writable(self, here: Path) -> None:
        """The journal is refused at once with the reason, for a user other than root."""
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
                return 7 if "cannot be created" in str(error) else 1
            return 2

        assert child(do) == 7

    def test_a_record_that_no_thread_waits_for_fails_silently(self, file: Path) -> None:
        """The plan continues until the next durable record, which raises the error."""
        journal = Journal(file, REFERENCES)
        file.unlink()
        journal.state_set("a", journal.lasting(1))
        journal.undone(1)
        with pytest.raises(JournalError):
            journal.set(a=1)
        journal.close()

    def test_a_cleanup_runs_when_it_cannot_be_recorded(self, file: Path, here: Path) -> None:
        """No cleanup is left out because the disk fails after provisioning."""
        journal = Journal(file, REFERENCES)
        clean_up, _ = provision(journal, *made("a", "b"))
        file.unlink()
        clean_up()
        assert {path.name for path in here.glob("*.cleaned")} == {"a.cleaned", "b.cleaned"}

    def test_a_deferred_call_that_cannot_be_recorded_is_still_made(
        self, file: Path, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is registered in memory, and so is an environment variable."""
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
        """Even with `cleanup_when="attempted"` it is not, because none of its code ran."""
        journal = Journal(file, REFERENCES)
        file.unlink()
        plan = Plan()
        plan.add_step(*made("a"), name="s0", cleanup_when="attempted")
        begun = begin(plan, journal=journal)
        begun.provision()
        begun.clean_up()
        assert list(here.glob("a.*")) == []

    @needs_limit
    def test_a_journal_without_a_thread_is_refused(self, file: Path) -> None:
        """The error has the reason, and no file is left for a later run."""
        with no_threads(), pytest.raises(JournalError, match="can't start new thread"):
            Journal(file, REFERENCES)
        assert not file.exists()

    @needs_limit
    def test_a_step_that_begins_with_its_second_attempt_is_on_the_disk(
        self, journal: Journal
    ) -> None:
        """The first attempt gets no thread; the second is recorded before its code runs."""
        seen: list[str] = []
        start = threading.Thread.start
        with pytest.MonkeyPatch.context() as patch:

            def start_none(thread: threading.Thread) -> None:
                patch.undo()
                with no_threads():
                    start(thread)

            plan = Plan()
            plan.add_step(
                GenericStep(
                    exec=lambda: seen.append(read(journal.file).steps["s0"].outcome),
                    cleanup=lambda: None,
                ),
                name="s0", retries=1, retry_wait="10ms",
            )  # fmt: skip
            begun = begin(plan, journal=journal)
            patch.setattr(threading.Thread, "start", start_none)
            begun.provision()
        begun.clean_up()
        assert seen == ["running"]
        assert len(begun.step_runs["s0"].attempts) == 2

    def test_threads_that_wait_at_the_end_get_an_error(self, file: Path) -> None:
        """The write fails in the last batch before the journal is closed."""
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


def test_a_plain_script_can_have_a_journal(tmp_path: Path) -> None:
    """The journal works without pytest."""
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
