"""Journals that are damaged, forged or taken from elsewhere, as hypothesis draws them.

Each forgery changes the files of a whole journal, and says what pytest-plan must do with them.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import random
import shutil
import socket
import sqlite3
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from pytest_plan.engine.journal.schema import TABLES
from pytest_plan.engine.journal.seal import Seal

FILES = ("", "-wal", "-shm")  # the ends of the names of a journal's files
PAGE = 4096


class Due(enum.Enum):
    """What must happen to a journal."""

    FOLLOWED = "followed"  # all that it records is undone
    REFUSED = "refused"  # nothing is undone, and it stays as it is
    EITHER = "either"  # it is refused, or what it recorded at some moment is undone


class Forgery(NamedTuple):
    """A change of a journal.

    Attributes:
        kind: its name in `KINDS`.
        arguments: what hypothesis has drawn for it.
    """

    kind: str
    arguments: tuple[Any, ...]


class Evidence(NamedTuple):
    """What forged rows can name, and what must not happen to it.

    Attributes:
        other: the files of another journal of the same user, by the ends of their names.
        rows: forged rows, each as its table and its values: they run code, remove folders or end
            processes if they are followed.
    """

    other: dict[str, bytes]
    rows: list[tuple[str, tuple[Any, ...]]]


def apply(forgery: Forgery, file: Path, evidence: Evidence) -> Due:
    """Change a journal; return what must happen to it."""
    due, change, _ = KINDS[forgery.kind]
    change(file, evidence, *forgery.arguments)
    return due


@contextlib.contextmanager
def _rows(file: Path) -> Any:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")


def _all(connection: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    return list(connection.execute(f"SELECT {', '.join(TABLES[table])}, seal FROM {table}"))


def _put(connection: sqlite3.Connection, table: str, row: tuple[Any, ...]) -> None:
    names = ", ".join([*TABLES[table], "seal"])
    marks = ", ".join("?" * len(row))
    connection.execute(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", row)


# What stays valid.


def _reorder(file: Path, _: Evidence, seed: int) -> None:
    with _rows(file) as connection:
        for table in TABLES:
            rows = _all(connection, table)
            random.Random(seed).shuffle(rows)
            connection.execute(f"DELETE FROM {table}")
            for row in rows:
                _put(connection, table, row)


def _add_column(file: Path, _: Evidence, tables: list[str], kind: str, value: Any) -> None:
    with _rows(file) as connection:
        for table in tables:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN later_{kind} {kind}")
            connection.execute(f"UPDATE {table} SET later_{kind} = ?", (value,))


def _merge(file: Path, _: Evidence, size: int) -> None:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute(f"PRAGMA page_size = {size}")
        connection.execute("VACUUM")


# What another user, or another journal, has written.


def _change_cell(file: Path, _: Evidence, seed: int, value: Any) -> None:
    chance = random.Random(seed)
    with _rows(file) as connection:
        table = chance.choice([one for one in TABLES if _all(connection, one)])
        key, *others = TABLES[table]
        row = chance.choice(_all(connection, table))
        # The id has a kind of its own, and the key of `undo` must be a number.
        column = chance.choice(others)
        sql = f"UPDATE OR IGNORE {table} SET {column} = ? WHERE {key} = ?"
        for new in (value, f"{value}x"):  # the second in case the first is what it was
            connection.execute(sql, (new, row[0]))
            if row not in _all(connection, table):
                break


def _swap(file: Path, _: Evidence, seed: int, whole: bool) -> None:
    """Exchange the seals of two rows, or all of their values but the keys and the seals."""
    chance = random.Random(seed)
    with _rows(file) as connection:
        table = chance.choice([one for one in TABLES if len(_all(connection, one)) > 1])
        one, other = chance.sample(_all(connection, table), 2)
        first = (one[0], *other[1:-1], one[-1]) if whole else (*one[:-1], other[-1])
        second = (other[0], *one[1:-1], other[-1]) if whole else (*other[:-1], one[-1])
        if first == one:  # the rows differ in nothing but their keys
            first = (*one[:-1], other[-1])
        _put(connection, table, first)
        _put(connection, table, second)


def _take_row(file: Path, evidence: Evidence, seed: int) -> None:
    """Put in a row of another journal of the same user."""
    other = file.with_name("other")
    for end, content in evidence.other.items():
        Path(f"{other}{end}").write_bytes(content)
    with _rows(other) as connection:
        found = [(table, row) for table in TABLES for row in _all(connection, table)]
    with _rows(file) as connection:
        _put(connection, *random.Random(seed).choice(found))
    for path in file.parent.glob("other*"):
        path.unlink()


def _forge(file: Path, evidence: Evidence, how: str, version: int) -> None:
    """Put in forged rows, and seal all as somebody would who does not have the key."""
    with _rows(file) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
        for table, values in evidence.rows:
            _put(connection, table, (*values, b""))
        if how == "kept":
            _put(connection, "environment", ("status", '"kept"', b""))
        seal = _seal(connection, how)
        for table in TABLES:
            for row in _all(connection, table):
                _put(connection, table, (*row[:-1], seal(table, *row[:-1])))


def _seal(connection: sqlite3.Connection, how: str) -> Callable[..., Any]:
    if how == "checksum":
        return lambda table, *values: zlib.crc32(ascii(values).encode())
    if how == "none":
        return lambda table, *values: None
    (text,) = connection.execute("SELECT value FROM environment WHERE key = 'id'").fetchone()
    return Seal(b"another key".ljust(32), json.loads(text))


def _drop_id(file: Path, _: Evidence, value: str | None) -> None:
    with _rows(file) as connection:
        connection.execute("DELETE FROM environment WHERE key = 'id'")
        if value is not None:
            connection.execute("INSERT INTO environment VALUES ('id', ?, NULL)", (value,))


SCHEMAS = (
    "CREATE TRIGGER t AFTER UPDATE ON step BEGIN DELETE FROM undo; END",
    "CREATE VIEW more AS SELECT * FROM step",
    "CREATE INDEX i ON undo(step)",
    "CREATE TABLE more(x)",
    "ALTER TABLE undo ADD COLUMN x TEXT DEFAULT 'x'",
    "ALTER TABLE undo ADD COLUMN x TEXT CHECK (length(x) < 9)",
    "ALTER TABLE state ADD COLUMN x TEXT AS (hex(value))",
    "ALTER TABLE undo ADD COLUMN x TEXT COLLATE nocase",
    "ALTER TABLE step RENAME TO steps",
    "ALTER TABLE undo RENAME COLUMN data TO datum",
    "DROP TABLE state",
    "PRAGMA user_version = 3",
    "PRAGMA user_version = 99",
    "PRAGMA application_id = 1",
)


def _change_schema(file: Path, _: Evidence, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(statement)


# Bytes.


def _flip(file: Path, _: Evidence, end: str, places: list[tuple[float, int]]) -> None:
    path = Path(f"{file}{end}")
    content = bytearray(path.read_bytes() if path.exists() else b"")
    for place, bits in places:
        if content:
            content[int(place * (len(content) - 1))] ^= bits
    path.write_bytes(content)


def _cut(file: Path, _: Evidence, end: str, place: float, added: bytes) -> None:
    path = Path(f"{file}{end}")
    content = path.read_bytes() if path.exists() else b""
    path.write_bytes(content[: int(place * len(content))] + added)


def _copy_page(file: Path, _: Evidence, source: float, target: float) -> None:
    content = bytearray(file.read_bytes())
    pages = len(content) // PAGE
    first, second = int(source * (pages - 1)) * PAGE, int(target * (pages - 1)) * PAGE
    content[second : second + PAGE] = content[first : first + PAGE]
    file.write_bytes(content)


def _mix(file: Path, evidence: Evidence, ends: list[str]) -> None:
    """Replace some files by those of another journal of the same user."""
    for end in ends:
        if end in evidence.other:
            Path(f"{file}{end}").write_bytes(evidence.other[end])


# What is no regular file, or a huge one.


def _replace(file: Path, _: Evidence, end: str, what: str) -> None:
    path = Path(f"{file}{end}")
    path.unlink(missing_ok=True)
    _MAKE[what](path)


def _link(path: Path, target: str) -> None:
    path.symlink_to(target)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        # The path of a socket is at most 107 bytes long.
        here = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        one.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


def _device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        _link(path, "/dev/zero")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def _link_to_copy(path: Path) -> None:
    shutil.copy(__file__, path.with_name("elsewhere"))
    _link(path, "elsewhere")


_MAKE: dict[str, Callable[[Path], None]] = {
    "pipe": lambda path: os.mkfifo(path, 0o600),
    "folder": lambda path: path.mkdir(),
    "socket": _socket,
    "device": _device,
    "huge file": _sparse,
    "link to nothing": lambda path: _link(path, "/nonexistent"),
    "link to a device": lambda path: _link(path, "/dev/zero"),
    "link to itself": lambda path: _link(path, path.name),
    "link to a file": _link_to_copy,
}

_seeds = st.integers(0, 1 << 30)
_fractions = st.floats(0, 1)
_cells = (
    st.none()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from(
        ["[" * 100_000, '{"$": 1}' * 9, "9" * 5000, '"' + "x" * 1_000_000 + '"', "1e999", "NaN"]
    )
)
KINDS: dict[str, tuple[Due, Callable[..., None], st.SearchStrategy[tuple[Any, ...]]]] = {
    "rows in another order": (Due.FOLLOWED, _reorder, st.tuples(_seeds)),
    "an unknown column": (
        Due.FOLLOWED,
        _add_column,
        st.tuples(
            st.lists(st.sampled_from(sorted(TABLES)), unique=True, min_size=1),
            st.sampled_from(["TEXT", "INTEGER", "BLOB"]),
            st.none() | st.integers(0, 9) | st.text("ab"),
        ),
    ),
    "another page size": (
        Due.FOLLOWED,
        _merge,
        st.tuples(st.sampled_from([512, 1024, 4096, 16384, 65536])),
    ),
    "a changed value": (Due.REFUSED, _change_cell, st.tuples(_seeds, _cells)),
    "swapped rows": (Due.REFUSED, _swap, st.tuples(_seeds, st.booleans())),
    "a row of another journal": (Due.REFUSED, _take_row, st.tuples(_seeds)),
    "forged rows": (
        Due.REFUSED,
        _forge,
        st.tuples(st.sampled_from(["key", "kept", "checksum", "none"]), st.sampled_from([3, 4])),
    ),
    "another id": (
        Due.REFUSED,
        _drop_id,
        st.tuples(st.none() | st.sampled_from(['"x"', "1", "[", "null"]) | st.text(max_size=9)),
    ),
    "another schema": (Due.REFUSED, _change_schema, st.tuples(st.sampled_from(SCHEMAS))),
    "flipped bytes": (
        Due.EITHER,
        _flip,
        st.tuples(
            st.sampled_from(FILES),
            st.lists(st.tuples(_fractions, st.integers(1, 255)), min_size=1, max_size=8),
        ),
    ),
    "a cut file": (
        Due.EITHER,
        _cut,
        st.tuples(st.sampled_from(FILES), _fractions, st.binary(max_size=50)),
    ),
    "a copied page": (Due.EITHER, _copy_page, st.tuples(_fractions, _fractions)),
    "files of another journal": (
        Due.EITHER,
        _mix,
        st.tuples(st.lists(st.sampled_from(["", "-wal"]), min_size=1, unique=True)),
    ),
    "no regular file": (
        Due.REFUSED,
        _replace,
        st.tuples(st.sampled_from([*FILES, "-journal"]), st.sampled_from(sorted(_MAKE))),
    ),
}

forgeries = st.sampled_from(sorted(KINDS)).flatmap(
    lambda kind: st.builds(Forgery, st.just(kind), KINDS[kind][2])
)
