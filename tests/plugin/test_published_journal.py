"""What another run rebuilds from the published journal of a lost owner."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.reader import read
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.model.outcomes import Hook
from pytest_plan.engine.processes.identity import host, namespace, this_owner
from pytest_plan.plugin.run.environments.takeover.published_journal import Recovered
from pytest_plan.sharing.model import Kind, Row
from tests.engine.support import journals

KEY = Key("ab" * 32)


@pytest.fixture
def published(tmp_path: Path) -> list[Any]:
    """Return the statements of an owner that has run a step with a program."""
    statements: list[Any] = []

    def receive(batch: Sequence[Any]) -> None:
        statements.extend(json.loads(json.dumps(batch)))

    run = journals.provisioned(tmp_path / "journal", {})
    assert isinstance(run.journal, Journal)
    run.journal.mirror_to(receive)
    pid, birth, boot, *_ = this_owner()
    owner = {"pid": pid, "birth": birth, "boot": boot}
    run.journal.set(owner=owner, host=host(), namespace=namespace(), scratch="/tmp/plan-x")
    step = GenericStep(exec=lambda: None, cleanup=lambda value: None)
    planned = journals.provisioned(tmp_path / "other", {"db": step})
    run.journal.step_begun(planned.step_runs["db"].planned)
    run.journal.state_set("db", run.journal.lasting("value"), "db")
    how = {"cookie": "c", "signal": 15, "grace": 1.0}
    run.journal.tree_planned("db", Hook.EXEC, "process 'x'", how)
    planned.clean_up()
    run.clean_up()
    return statements


def test_a_journal_is_rebuilt_with_the_newest_values(tmp_path: Path, published: list[Any]) -> None:
    """Its rows are sealed anew, it has no owner, and the State has only the values of tests."""
    values = [Row(Kind.STATE, "db", '"forged"'), Row(Kind.STATE, "count", "6")]
    environment = Recovered(published, values, unread=0).rebuild(tmp_path / "plan", "run-1", KEY)
    try:
        found = read(environment.file, KEY)
    finally:
        environment.release(remove=True)
    assert list(found.steps) == ["db"]
    assert found.state == {"db": '"value"', "count": "6"}
    assert found.owner is None
    assert found.facts["scratch"] == "/tmp/plan-x"
    assert [undo.kind for undo in found.steps["db"].undos] == ["tree"]


def test_what_is_on_another_machine_is_lost(tmp_path: Path, published: list[Any]) -> None:
    """Its processes and folders are not touched here; each process is named as left."""
    elsewhere = [
        [sql, ["host", '"build-1"'] if values[0] == "host" else values] for sql, values in published
    ]
    environment = Recovered(elsewhere, [], unread=0).rebuild(tmp_path / "plan", "run-1", KEY)
    try:
        found = read(environment.file, KEY)
    finally:
        environment.release(remove=True)
    assert "scratch" not in found.facts
    (undo,) = found.steps["db"].undos
    assert undo.kind == "lost"
    assert "its processes are on build-1" in undo.data


def test_a_damaged_journal_is_an_error(tmp_path: Path) -> None:
    """A statement that fails leaves nothing behind."""
    with pytest.raises(JournalError, match="the published journal of 'run-1' cannot be used"):
        Recovered([["DROP TABLE x", []]], [], unread=0).rebuild(tmp_path / "plan", "run-1", KEY)
    assert not list(tmp_path.rglob("journal*"))
