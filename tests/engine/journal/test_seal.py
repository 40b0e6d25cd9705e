"""The key with which a user seals journals: where it comes from, and what makes it unusable."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_plan.engine.journal.seal import Key, Seal
from pytest_plan.engine.model.errors import PlanDefinitionError

TEXT = "0123456789abcdefABCDEF0123456789" * 2


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of the user, which does not exist yet."""
    folder = tmp_path / "a" / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder


def test_a_seal_covers_table_values_types_and_journal() -> None:
    """Only the same row of the same journal has the same seal, with the same key."""
    key, other = Key(TEXT), Key("1" * 64)
    seal = key.seal("id")
    rows: list[tuple[object, ...]] = [("a", 1), ("a", "1"), ("a1",), (1, "a"), (b"a", 1)]
    seals = {seal("step", *values) for values in rows}
    seals |= {
        seal("undo", "a", 1),
        key.seal("di")("step", "a", 1),
        other.seal("id")("step", "a", 1),
    }
    assert len(seals) == 8
    assert seal("step", "a", 1) == Seal(bytes.fromhex(TEXT), "id")("step", "a", 1)


def test_the_first_use_creates_a_private_key(state: Path) -> None:
    """Its file has mode 0600, its folder 0700, and nothing else is left there."""
    first = Key()
    assert not state.exists()
    assert (len(bytes.fromhex(first.hex)), first.problem) == (32, None)
    folder = state / "pytest-plan"
    assert [path.name for path in folder.iterdir()] == ["key"]
    assert (folder.stat().st_mode & 0o777, (folder / "key").stat().st_mode & 0o777) == (
        0o700,
        0o600,
    )
    assert Key().hex == first.hex == (folder / "key").read_text().strip()


def test_all_processes_agree_on_the_first_key(state: Path) -> None:
    """Threads that create it at the same time get the same key."""
    ready, found = threading.Barrier(8), []

    def make() -> None:
        key = Key()
        ready.wait()
        found.append((key.hex, key.problem))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert set(found) == {(Key().hex, None)}


def test_the_variable_comes_first(state: Path) -> None:
    """With PYTEST_PLAN_KEY, no file is read or created; an empty variable counts as unset."""
    assert Key.of({"PYTEST_PLAN_KEY": TEXT}).hex == TEXT.lower()
    assert not state.exists()
    assert Key.of({"PYTEST_PLAN_KEY": ""}).hex == Key().hex
    assert state.exists()


@pytest.mark.parametrize("text", ["x", TEXT[1:], TEXT + "0", TEXT[1:] + "g", " " + TEXT[1:]])
def test_a_bad_variable_is_refused(text: str) -> None:
    """The error names the variable, but does not show what may be most of a key."""
    with pytest.raises(PlanDefinitionError, match="PYTEST_PLAN_KEY") as caught:
        Key.of({"PYTEST_PLAN_KEY": text})
    assert text == "x" or text not in str(caught.value)


def _file(state: Path) -> Path:
    Key().hex  # noqa: B018 - creates the file
    return state / "pytest-plan" / "key"


def _link(state: Path) -> None:
    file = _file(state)
    file.rename(state / "elsewhere")
    file.symlink_to(state / "elsewhere")


def _linked_folder(state: Path) -> None:
    folder = _file(state).parent
    folder.rename(state / "elsewhere")
    folder.symlink_to(state / "elsewhere")


def _pipe(state: Path) -> None:
    file = _file(state)
    file.unlink()
    os.mkfifo(file, 0o600)


def _folder(state: Path) -> None:
    (state / "pytest-plan" / "key").mkdir(parents=True)


@pytest.mark.parametrize(
    "damage",
    [
        _link,
        _linked_folder,
        _pipe,
        _folder,
        lambda state: _file(state).chmod(0o640),
        lambda state: _file(state).parent.chmod(0o777),
        lambda state: _file(state).write_text(""),
        lambda state: _file(state).write_text("x" * 64),
        lambda state: _file(state).write_text("0" * 1_000_000),
        lambda state: (state.parent.mkdir(), state.write_text("a file")),
    ],
    ids=["link", "linked folder", "pipe", "folder", "mode", "open folder", *"1234"],
)
def test_an_unusable_file_is_replaced_for_this_process(
    state: Path, damage: Callable[[Path], object]
) -> None:
    """The key is then random, the problem names the path, and nothing there is changed."""
    damage(state)
    before = sorted(path.name for path in state.rglob("*"))
    one, other = Key(), Key()
    assert str(state) in (one.problem or "")
    assert one.hex != other.hex
    assert one.hex == one.hex
    assert sorted(path.name for path in state.rglob("*")) == before


def test_a_user_without_a_home_has_a_temporary_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is not used, because it would be below the project."""
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", "home")
    assert "set HOME" in (Key().problem or "")


def test_the_key_does_not_load_openssl() -> None:
    """Loading it would double the time that a run needs to import its journal."""
    code = "import sys, pytest_plan.engine.journal.seal; print('_hashlib' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
