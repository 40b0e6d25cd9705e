"""Journals for tests, in the state in which a killed run leaves them."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_plan import Plan
from pytest_plan.engine.definition.step import Step
from pytest_plan.engine.execution.run import Run
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.reference import References
from pytest_plan.engine.journal.schema import TABLES, connect, place_of, reopen
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.plan import begin

ROOT = Path(__file__).parent


def references() -> References:
    """Return References that find the functions of these tests."""
    return References(ROOT)


def provisioned(file: Path, steps: Mapping[str, Step], **options: Any) -> Run:
    """Provision steps that a later run may use; the caller must clean up the run."""
    plan = Plan()
    for name, step in steps.items():
        plan.add_step(step, name=name, **options)
    run = begin(plan, journal=Journal(file, references(), outlives=True))
    run.provision()
    return run


def flush(run: Run) -> None:
    """Wait until all records of the run are on the disk."""
    assert isinstance(run.journal, Journal)
    run.journal.set(flushed=True)


def left(file: Path, copy: Path, steps: Mapping[str, Step], **options: Any) -> Path:
    """Return the journal of a run that was killed when all steps had ended."""
    run = provisioned(file, steps, **options)
    flush(run)
    copy_journal(file, copy)
    run.clean_up()
    return copy


def copy_journal(file: Path, copy: Path) -> None:
    """Copy a journal together with its write-ahead log."""
    for suffix in ("", "-wal"):
        source = Path(f"{file}{suffix}")
        if source.exists():
            Path(f"{copy}{suffix}").write_bytes(source.read_bytes())
    copy.chmod(0o600)


def settle(file: Path) -> None:
    """Let a copy of a journal count as written where it is."""
    with sealing(file) as connection:
        place = json.dumps(place_of(file))
        connection.execute("UPDATE environment SET value = ? WHERE key = 'place'", (place,))


@contextlib.contextmanager
def sealing(file: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection to a journal that seals every row that a statement writes."""
    with contextlib.closing(connect(file, reopen(file, Key.of(os.environ))[0])) as connection:
        for table, columns in TABLES.items():
            key, names = next(iter(columns)), ", ".join(columns)
            for when, event in (("insert", "INSERT"), ("update", f"UPDATE OF {names}")):
                seal = f"UPDATE {table} SET seal = seal('{table}', {names}) WHERE {key} = NEW.{key}"
                connection.execute(
                    f"CREATE TEMP TRIGGER seal_{table}_{when} AFTER {event} ON {table}"
                    f" BEGIN {seal}; END"
                )
        yield connection
