"""Reading journals: complete ones, damaged ones, and files of other programs."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
from pathlib import Path

import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.reader import MOST_OWNERS, ForeignError, read
from pytest_plan.engine.journal.schema import FORMAT
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.model.errors import JournalError
from tests.engine.support import journals
from tests.engine.support.journals import sealing

FLIPS = 400


def undo(*words: str) -> None:
    """The function that the steps defer."""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The journal of a killed run with three steps, each with entries to undo."""

    def make(ctx: Context) -> str:
        ctx.defer(undo, ctx.step, "x" * 300)
        ctx.defer(lambda: None)
        ctx.setenv(f"VARIABLE_{ctx.step}", "1")
        return ctx.step

    steps = {name: GenericStep(exec=make, cleanup=lambda: None) for name in ("net", "db", "web")}
    (tmp_path / "run").mkdir()
    copy = journals.left(tmp_path / "run" / "j.sqlite", tmp_path / "journal.sqlite", steps)
    with contextlib.closing(sqlite3.connect(copy)) as connection:  # merge the log into the file
        connection.execute("PRAGMA journal_mode = DELETE")
    return copy


def refused(file: Path, *parts: str) -> None:
    """Check that a journal is refused with these parts in the message, and left unchanged."""
    before = {path: path.read_bytes() for path in file.parent.glob(f"{file.name}*")}
    with pytest.raises(JournalError) as caught:
        read(file)
    for text in (str(file), "it is left unchanged", *parts):
        assert text in str(caught.value)
    assert {path: path.read_bytes() for path in file.parent.glob(f"{file.name}*")} == before


def change(file: Path, *statements: str) -> None:
    """Change a journal, with valid seals, as another version of pytest-plan could."""
    with sealing(file) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.execute("PRAGMA journal_mode = DELETE")


def test_it_has_everything_that_is_left(journal: Path) -> None:
    """The steps are in the order in which they began, and so are the undo entries of each."""
    recorded = read(journal)
    assert list(recorded.steps) == ["net", "db", "web"]
    web = recorded.steps["web"]
    assert (web.outcome, web.completed, web.needs, web.after) == ("succeeded", 3, (), ("db",))
    assert [entry.kind for entry in web.undos] == ["call", "lost", "variable"]
    assert web.hook_is_due
    assert recorded.state["web"] == '"web"'
    assert [step.name for step in recorded.due()] == ["net", "db", "web"]


def test_reading_changes_nothing(tmp_path: Path) -> None:
    """This also holds when it has to read the write-ahead log."""
    (tmp_path / "run").mkdir()
    file = journals.left(tmp_path / "run" / "j", tmp_path / "copy", {"a": GenericStep()})
    before = {path.name: path.read_bytes() for path in tmp_path.glob("copy*")}
    assert "copy-wal" in before
    for _ in range(2):
        read(file)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_missing_journal_is_not_created(tmp_path: Path) -> None:
    """Reading must not create a file that the owner did not expect."""
    with pytest.raises(JournalError):
        read(tmp_path / "journal.sqlite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"garbage" * 2000, b"SQLite format 3\0" + b"\xff" * 5000, b"\0" * 4096]
)
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty file is refused, and so is one that only starts like a database."""
    file = tmp_path / "journal.sqlite"
    file.write_bytes(content)
    refused(file, "cannot read the journal")


def test_a_database_of_another_application_is_refused(tmp_path: Path) -> None:
    """The names of its tables do not matter."""
    file = tmp_path / "journal.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE step(name)")
    refused(file, "was not created by pytest-plan")


@pytest.mark.parametrize("version", [FORMAT - 1, FORMAT + 1])
def test_another_format_is_refused(journal: Path, version: int) -> None:
    """The message has the format and says what to do."""
    change(journal, f"PRAGMA user_version = {version}")
    refused(journal, f"has format {version}", "with the version that wrote it")


def test_a_journal_cut_at_any_page_is_refused(journal: Path) -> None:
    """An incomplete journal is never used for cleanup."""
    content = journal.read_bytes()
    assert len(content) >= 5 * 4096
    for size in range(0, len(content), 4096):
        journal.write_bytes(content[:size])
        refused(journal, "cannot read the journal")


def test_a_truncated_log_is_consistent(tmp_path: Path) -> None:
    """Only the last commits are lost, at whatever byte the log is cut."""
    (tmp_path / "run").mkdir()
    steps = {name: GenericStep(cleanup=lambda: None) for name in ("a", "b", "c")}
    file = journals.left(tmp_path / "run" / "j", tmp_path / "copy", steps)
    wal = tmp_path / "copy-wal"
    whole, content = read(file), wal.read_bytes()
    names = list(whole.steps)
    assert names == ["a", "b", "c"]
    seen = set()
    for size in [*range(0, len(content), 1000), len(content)]:
        wal.write_bytes(content[:size])
        (tmp_path / "copy-shm").unlink(missing_ok=True)
        found = list(read(file).steps)
        assert found == names[: len(found)]
        seen.add(len(found))
    assert {0, 3} <= seen


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM step WHERE name = 'db'",
        "UPDATE step SET outcome = 'gone'",
        "UPDATE step SET needs = '['",
        "UPDATE step SET needs = NULL",
        "UPDATE undo SET kind = 'rm'",
        "UPDATE undo SET hook = 'x'",
        "UPDATE undo SET data = '{' WHERE kind = 'call'",
        "UPDATE undo SET kind = 'tree'",
        "DROP TABLE state",
        "ALTER TABLE undo RENAME COLUMN data TO payload",
        "UPDATE environment SET value = '['",
        "INSERT INTO environment(key, value) VALUES ('x', replace(hex(zeroblob(9999)), '00', '['))",
    ],
)
def test_content_that_no_version_writes_is_refused(journal: Path, statement: str) -> None:
    """Every value is checked, not only the seals."""
    change(journal, statement)
    refused(journal)


def test_flipped_bits_do_not_crash_the_reader(journal: Path) -> None:
    """The journal is refused with a `JournalError` or read, and never has more steps."""
    content = journal.read_bytes()
    dice, refusals = random.Random(1), 0
    for _ in range(FLIPS):
        position = dice.randrange(len(content))
        flipped = bytearray(content)
        flipped[position] ^= 1 << dice.randrange(8)
        journal.write_bytes(flipped)
        try:
            assert len(read(journal).steps) <= 3
        except JournalError:
            refusals += 1
    assert refusals > 0


class TestOwners:
    """The number of processes that have tried a cleanup."""

    @pytest.mark.parametrize(
        ("owners", "expected"),
        [("0", False), (str(MOST_OWNERS - 1), False), (str(MOST_OWNERS), True)],
    )
    def test_cleanup_is_given_up_after_the_last_owner(
        self, journal: Path, owners: str, expected: bool
    ) -> None:
        """It is given up when every remaining step has had that many owners."""
        change(journal, f"UPDATE step SET owners = {owners}")
        assert read(journal).exhausted() is expected

    def test_one_step_with_fewer_owners_is_enough_to_try_again(self, journal: Path) -> None:
        """Cleanup is not given up while one step has had fewer owners."""
        change(journal, "UPDATE step SET owners = 3 WHERE name != 'db'")
        assert not read(journal).exhausted()

    def test_an_owner_that_was_not_recorded_is_unknown(self, journal: Path) -> None:
        """A missing owner is not an error."""
        change(journal, "DELETE FROM environment WHERE key = 'owner'")
        assert read(journal).owner is None


@pytest.mark.parametrize(
    ("outcome", "cleanup_when", "expected"),
    [
        ("succeeded", "succeeded", True),
        ("running", "succeeded", True),
        ("reused", "succeeded", True),
        ("failed", "succeeded", False),
        ("timed_out", "succeeded", False),
        ("failed", "attempted", True),
    ],
)
def test_a_cleanup_hook_is_due_by_the_rule_of_cleanup_when(
    journal: Path, outcome: str, cleanup_when: str, expected: bool
) -> None:
    """A step without a recorded end may have succeeded."""
    change(journal, f"UPDATE step SET outcome = '{outcome}', cleanup_when = '{cleanup_when}'")
    assert read(journal).steps["db"].hook_is_due is expected


def test_a_completed_hook_is_not_due(journal: Path) -> None:
    """The same holds for undo entries that are done."""
    change(journal, "UPDATE step SET hook_done = 1", "UPDATE undo SET done = 1")
    assert read(journal).due() == []


class TestForeign:
    """Journals that somebody else could have written."""

    def test_another_key_is_foreign(self, journal: Path) -> None:
        """Nothing else of the journal is read, and the message has no `chmod`."""
        journal.chmod(0o666)
        with pytest.raises(ForeignError, match="not sealed with the key of this user") as caught:
            read(journal, Key("0" * 64))
        assert "chmod" not in str(caught.value)
        assert str(journal) in str(caught.value)

    def test_a_row_of_another_journal_is_refused(self, journal: Path, tmp_path: Path) -> None:
        """Each seal covers the random id of its journal, so a row is valid in one journal only."""
        Journal(tmp_path / "other", journals.references()).close()
        with contextlib.closing(sqlite3.connect(tmp_path / "other")) as connection:
            row = next(connection.execute("SELECT * FROM environment WHERE key = 'place'"))
        with contextlib.closing(sqlite3.connect(journal)) as connection, connection:
            connection.execute("REPLACE INTO environment VALUES (?, ?, ?)", row)
        refused(journal, "its seal does not match")

    @pytest.mark.parametrize(
        "statement",
        [
            "CREATE TRIGGER t AFTER UPDATE ON step BEGIN DELETE FROM undo; END",
            "CREATE VIEW more AS SELECT * FROM step",
            "CREATE INDEX i ON undo(step)",
            "CREATE TABLE more(x)",
            "DROP TABLE state",
            "ALTER TABLE undo ADD COLUMN x TEXT DEFAULT 'x'",
            "ALTER TABLE undo ADD COLUMN x TEXT CHECK (length(x) < 9)",
            "ALTER TABLE undo ADD COLUMN x TEXT REFERENCES step(name)",
            "ALTER TABLE state ADD COLUMN x TEXT AS (hex(value))",
        ],
    )
    def test_another_schema_is_refused(self, journal: Path, statement: str) -> None:
        """SQLite could run what is in it, so the schema is checked before any row is read."""
        with contextlib.closing(sqlite3.connect(journal)) as connection:
            connection.execute(statement)
        is_column = statement.startswith("ALTER")
        refused(journal, "has another definition" if is_column else "it does not have the tables")

    def test_more_columns_are_ignored(self, journal: Path) -> None:
        """A later version may add them."""
        whole = read(journal)
        with contextlib.closing(sqlite3.connect(journal)) as connection:
            for table in ("environment", "step", "undo", "state"):
                connection.execute(f"ALTER TABLE {table} ADD COLUMN later TEXT")
                connection.execute(f"ALTER TABLE {table} ADD COLUMN more")
        assert read(journal) == whole

    @pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"])
    def test_a_named_pipe_does_not_block(self, journal: Path, end: str) -> None:
        """Opening it would wait for its other end."""
        path = Path(f"{journal}{end}")
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        with pytest.raises(JournalError, match="not a regular file"):
            read(journal)

    def test_a_rollback_journal_is_refused(self, journal: Path) -> None:
        """SQLite would apply it, and remove the file that it names."""
        Path(f"{journal}-journal").write_bytes(b"")
        refused(journal, "-journal is there")

    def test_a_huge_file_is_refused(self, journal: Path) -> None:
        """SQLite would read all of it."""
        with Path(f"{journal}-wal").open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(JournalError, match="more than 1024 MiB"):
            read(journal)

    def test_a_copy_is_in_another_place(self, journal: Path, tmp_path: Path) -> None:
        """It may be in use where it was copied from, unless it was kept on purpose."""
        journals.settle(journal)
        read(journal).check_place()
        copy = tmp_path / "copy"
        journals.copy_journal(journal, copy)
        with pytest.raises(ForeignError, match="moved, copied or restored"):
            read(copy).check_place()
        change(copy, "REPLACE INTO environment (key, value) VALUES ('status', '\"kept\"')")
        read(copy).check_place()


def test_a_new_journal_does_not_get_the_log_of_an_earlier_one(tmp_path: Path) -> None:
    """SQLite would apply a log that somebody has left in the place of its own."""
    file = tmp_path / "journal.sqlite"
    Journal(file, journals.references()).close()
    first = read(file).facts["id"]
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE planted(x)")
        log = Path(f"{file}-wal").read_bytes()
        assert log
    file.unlink()
    Path(f"{file}-wal").write_bytes(log)
    Journal(file, journals.references()).close()
    assert read(file).facts["id"] != first
