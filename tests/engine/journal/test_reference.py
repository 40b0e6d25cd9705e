"""Functions and classes, found again by where they are written."""

from __future__ import annotations

import functools
import importlib.util
import os.path
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.journal.reference import NotDurableError, Reference, References

HERE = Path(__file__)
REFERENCES = References(HERE.parent)


class Client:
    """What users have."""

    def __repr__(self) -> str:
        return "Client('canary')"

    def close(self) -> None:
        """A method."""

    @staticmethod
    def drop() -> None:
        """As good as a function."""

    @classmethod
    def make(cls) -> None:
        """Bound to its class."""


def function(*args: Any) -> None:
    """A function of a module."""


@pytest.fixture
def conftest(tmp_path: Path) -> Iterator[types.ModuleType]:
    """A module as pytest loads it: under a name that leads nowhere, known to the plugin alone."""
    file = tmp_path / "conftest.py"
    file.write_text("def undo(): ...\nclass Box:\n    def open(self): ...\n")
    specification = importlib.util.spec_from_file_location("conftest", file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    sys.modules.pop("conftest", None)


def test_a_function_is_named_by_its_file() -> None:
    """Relative to the root, so that a checkout may move."""
    assert REFERENCES.of(function) == Reference(__name__, "function", HERE.name)


@pytest.mark.parametrize("target", [function, Client, Client.close, Client.drop, os.path.join, len])
def test_what_has_a_place_is_found_again(target: Any) -> None:
    """Functions, classes, functions of classes, built-in ones."""
    assert REFERENCES.follow(REFERENCES.of(target)) is target


def test_a_file_outside_of_the_root_is_absolute(tmp_path: Path) -> None:
    """It is somebody else's, and does not move with the project."""
    references = References(tmp_path)
    assert references.of(function).file == str(HERE)
    assert references.follow(references.of(function)) is function


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (lambda: None, "lambda"),
        (Client().close, "'Client.close' is no function of a module"),
        (Client.make, "'Client.make' is no function of a module"),
        (functools.partial(function, "canary"), "a partial is no function of a module"),
        (Client(), "a Client is no function of a module"),
    ],
    ids=["lambda", "method", "classmethod", "partial", "object"],
)
def test_what_has_none_is_refused(target: Any, said: str) -> None:
    """In words that show no value: it may hold what nobody should see."""
    with pytest.raises(NotDurableError) as caught:
        REFERENCES.of(target)
    assert said in str(caught.value)
    assert "canary" not in str(caught.value)


def test_what_only_looks_like_it_is_refused() -> None:
    """Another function goes by that name now."""

    def other() -> None:
        """Claim to be somebody else."""

    other.__qualname__ = "function"
    with pytest.raises(NotDurableError, match="cannot be found again"):
        REFERENCES.of(other)


class TestConftest:
    """Modules that only pytest knows."""

    def test_its_functions_are_found_by_the_file(self, conftest: types.ModuleType) -> None:
        """Whatever the module is called."""
        references = References(Path(str(conftest.__file__)).parent, lambda: [conftest])
        for target in (conftest.undo, conftest.Box, conftest.Box.open):
            reference = references.of(target)
            assert reference.file == "conftest.py"
            assert references.follow(reference) is target

    def test_it_is_never_imported(self, conftest: types.ModuleType) -> None:
        """Another conftest may be found by that name."""
        root = Path(str(conftest.__file__)).parent
        reference = References(root, lambda: [conftest]).of(conftest.undo)
        with pytest.raises(LookupError, match=r"conftest\.py is not loaded"):
            References(root, lambda: []).follow(reference)

    def test_what_is_gone_from_it_is_named(self, conftest: types.ModuleType) -> None:
        """Renamed or removed since."""
        references = References(Path(str(conftest.__file__)).parent, lambda: [conftest])
        reference = references.of(conftest.undo)
        del conftest.undo
        with pytest.raises(LookupError, match=r"conftest\.py has no 'undo' any more"):
            references.follow(reference)


class TestModule:
    """Modules that can be imported."""

    @pytest.fixture(autouse=True)
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder that is searched for modules."""
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    def test_it_is_imported_when_it_is_not_loaded(self, path: Path) -> None:
        """As in a process that did not need it until now."""
        (path / "undo_module.py").write_text("def undo(): return 7\n")
        found = References(path).follow(Reference("undo_module", "undo", "undo_module.py"))
        assert found() == 7
        del sys.modules["undo_module"]

    @pytest.mark.parametrize("source", ["raise OSError('no disk')", "def undo(:"])
    def test_one_that_cannot_be_imported_is_named(self, path: Path, source: str) -> None:
        """With the reason."""
        (path / "broken_module.py").write_text(source)
        with pytest.raises(LookupError, match=r"broken_module\.py cannot be imported: "):
            References(path).follow(Reference("broken_module", "undo", "broken_module.py"))

    def test_one_that_is_gone_is_named(self, path: Path) -> None:
        """It was removed since."""
        with pytest.raises(LookupError, match=r"gone_module\.py cannot be imported"):
            References(path).follow(Reference("gone_module", "undo", "gone_module.py"))
