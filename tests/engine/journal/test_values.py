"""Which values of the State are in the journal, and when."""

from __future__ import annotations

import contextlib
import sqlite3
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_plan import Context, GenericStep, Plan, Secret
from pytest_plan.engine.journal.codec import Codec
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.reader import read
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.plan import begin
from tests.engine.support.journals import references, sealing

LONGEST = 30.0  # maximum real seconds for something that another thread does
LARGE = 100_000  # a size that is written as it is


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of the journal, which does not exist yet."""
    return tmp_path / "journal.sqlite"


def state_of(file: Path) -> dict[str, str | None]:
    """Return the values that are on the disk."""
    return dict(read(file).state)


def hooks_before_and_after(file: Path, cleanup: Callable[..., None]) -> list[dict[str, Any]]:
    """Return the values on the disk before and in a step with this hook, and at the end."""
    seen: list[dict[str, Any]] = []
    journal = Journal(file, references())

    def look() -> None:
        seen.append(state_of(file))

    def make(state: Any) -> str:
        state["port"], state["url"] = 1, "a"
        state["port"] = 2
        return "value"

    def look_and_change(state: Any) -> None:
        look()
        state["port"] = 3

    plan = Plan(jobs=1)
    plan.add_step(GenericStep(exec=make), name="db")
    plan.add_step(GenericStep(exec=look), name="other")
    plan.add_step(GenericStep(exec=look_and_change, cleanup=cleanup), name="web")
    run = begin(plan, journal=journal)
    run.provision()
    look()
    run.clean_up()
    assert run.error() is None
    return seen


def test_a_value_that_nobody_could_read_is_not_written(file: Path) -> None:
    """No hook takes it, and the environment does not outlive its run."""
    seen = hooks_before_and_after(file, lambda: None)
    assert seen == [{}, {}, {}]


@pytest.mark.parametrize(
    ("cleanup", "keys"),
    [
        (lambda state: None, {"port", "url", "db"}),
        (lambda ctx: None, {"port", "url", "db"}),
        (lambda db: None, {"db"}),
        (lambda value: None, set()),
    ],
    ids=["state", "ctx", "the name of a step", "value"],
)
def test_what_a_cleanup_hook_can_read_is_written_before_the_code_of_its_step(
    file: Path, cleanup: Callable[..., None], keys: set[str]
) -> None:
    """Of a key that was set several times, it is the last value; later values follow."""
    before, begun, end = hooks_before_and_after(file, cleanup)
    values = {"port": "2", "url": '"a"', "db": '"value"'}
    assert before == {}
    assert begun == {key: values[key] for key in keys}
    assert end == {key: {**values, "port": "3"}[key] for key in keys}


def test_only_the_last_value_of_a_key_is_encoded(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values in between are never read, however large they are; a removed key is missing."""
    encoded: list[Any] = []
    encode = Codec.encode

    def counting(self: Codec, value: Any) -> str:
        encoded.append(value)
        return encode(self, value)

    monkeypatch.setattr(Codec, "encode", counting)
    journal = Journal(file, references())
    for number in range(100):
        journal.state_set("key", journal.lasting(number))
        journal.state_set("gone", journal.lasting(number))
    journal.state_removed("gone")
    journal._values.want_all()
    journal.flush()
    assert (encoded, state_of(file)) == ([99], {"key": "99"})
    journal.state_set("key", journal.lasting("soon"))  # no durable record follows
    deadline = time.monotonic() + LONGEST
    while state_of(file) != {"key": '"soon"'}:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    journal.close()


@pytest.mark.parametrize(
    "value", [b"\0\xff" * LARGE, "ä\ud800\n" * LARGE], ids=["bytes", "lone surrogates"]
)
def test_a_large_value_is_written_as_it_is(file: Path, value: str | bytes) -> None:
    """Readers get the same value as from JSON, also below the value of another step."""
    raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    journal = Journal(file, references(), outlives=True)
    journal.state_set("key", journal.lasting(value), "db")
    journal.state_set("key", journal.lasting(value[:-1]), "web")
    journal.flush()
    recorded = read(file)
    codec = Codec(references())
    layers = [codec.decode(layer.text or "") for layer in recorded.layers["key"]]
    assert layers == [value, value[:-1]]
    assert recorded.state["key"] == codec.encode(value[:-1])
    with contextlib.closing(sqlite3.connect(file)) as connection:
        (data,) = connection.execute("SELECT data FROM state").fetchone()
    assert data == (
        raw[:-1] if isinstance(value, bytes) else value[:-1].encode("utf-8", "surrogatepass")
    )
    journal.close()


def test_large_values_are_written_and_read_one_at_a_time(file: Path) -> None:
    """Writing takes the memory of a few of them, and reading only that of the result."""
    size, count = 1_000_000, 20
    journal = Journal(file, references(), outlives=True)
    snapshots = [journal.lasting(chr(97 + number) * size) for number in range(count)]
    tracemalloc.start()
    try:
        for number, snapshot in enumerate(snapshots):
            journal.state_set(str(number), snapshot)
        journal.flush()
        assert tracemalloc.get_traced_memory()[1] < 5 * size
        tracemalloc.reset_peak()
        recorded = read(file)
        assert tracemalloc.get_traced_memory()[1] < (count + 5) * size
    finally:
        tracemalloc.stop()
    assert {len(text or "") for text in recorded.state.values()} == {size + 2}
    journal.close()


def test_a_large_value_is_sealed(file: Path) -> None:
    """A journal is refused if one byte of it was changed, or if its type is unknown."""
    journal = Journal(file, references(), outlives=True)
    journal.state_set("key", journal.lasting(b"x" * LARGE))
    journal.close()
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE state SET data = replace(data, 'xxx', 'xyx')")
    with pytest.raises(JournalError, match="its seal does not match"):
        read(file)
    with sealing(file) as connection:
        connection.execute("UPDATE state SET value = 'list'")
    with pytest.raises(JournalError, match="unknown type of a large value"):
        read(file)


def test_a_value_whose_code_raises_does_not_stop_the_journal(file: Path) -> None:
    """It is recorded as one that cannot be written, without the text of the error."""

    def raises() -> Any:
        raise RuntimeError("canary")

    journal = Journal(file, references(), outlives=True)
    journal.state_set("key", raises)
    journal.flush()
    assert read(file).lost == {"key": "it cannot be encoded: it raised RuntimeError"}
    journal.close()


def test_a_large_secret_is_not_written(file: Path) -> None:
    """Neither is a large value that contains the text of a secret."""

    def make(ctx: Context, state: Any) -> None:
        state["password"] = Secret("canary" * LARGE)
        state["dump"] = "x" * LARGE + "canary" * LARGE
        state["raw"] = b"x" * LARGE + b"canary" * LARGE

    plan = Plan()
    plan.add_step(GenericStep(exec=make), name="db")
    run = begin(plan, journal=Journal(file, references(), outlives=True))
    run.provision()
    run.clean_up()
    assert state_of(file) == {"password": None, "dump": None, "raw": None}
    assert b"canary" not in file.read_bytes()
