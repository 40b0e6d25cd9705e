"""What runs that share an environment believe of it, and what others with the URL do not see."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_plan.engine.journal.seal import Key
from pytest_plan.plugin.run.environments.sharing.trust.seals import RowSeals
from pytest_plan.sharing.model import EnvironmentId, Kind, Row

KEY = Key("ab" * 32)
ENVIRONMENT = EnvironmentId("build-7", "f00d", 2)
ROW = Row(Kind.JOURNAL, "000002 00000001", '["INSERT", []]', 7)


def seals(key: Key = KEY, *, is_local: bool = False, **other: Any) -> RowSeals:
    """Return the seals of the environment, or of one that differs from it."""
    return RowSeals(ENVIRONMENT._replace(**other), key, is_local=is_local)


def test_a_sealed_row_is_opened_with_the_same_key_alone() -> None:
    """A row of this epoch or an earlier one is opened; one of elsewhere, or changed, is not."""
    row = seals().seal(ROW)
    assert seals().open(row) == ROW
    assert seals(epoch=3).open(row) == ROW
    others = [seals(epoch=1), seals(name="build-8"), seals(id="beef"), seals(Key("cd" * 32))]
    assert [one.open(row) for one in others] == [None] * 4
    epoch, seal, text = json.loads(row.text)
    forged = [
        row._replace(key="000002 00000002"),
        row._replace(kind=Kind.OUTCOME),
        row._replace(text=json.dumps([1, seal, text])),
        row._replace(text=json.dumps([epoch, seal, f"{text} "])),
        row._replace(text=json.dumps([True, seal, text])),
        row._replace(text=json.dumps([epoch, "\N{SNOWMAN}", text])),
        *(row._replace(text=text) for text in ("", "7", "[1]", "[" * 100_000, "{}", ROW.text)),
    ]
    assert [seals().open(one) for one in forged] == [None] * len(forged)


def test_others_open_the_rows_only_if_the_key_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the state folder is that of one machine, so a server needs PYTEST_PLAN_KEY."""
    assert seals().problem is None
    own = seals(Key())
    assert own.problem is not None
    assert "PYTEST_PLAN_KEY is not set" in own.problem
    assert seals(Key(), is_local=True).problem is None
    assert seals(Key()).open(own.seal(ROW)) == ROW
