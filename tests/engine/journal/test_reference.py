"""References to functions and classes."""

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
    """A class of a user."""

    def __repr__(self) -> str:
        return "Client('canary')"

    def close(self) -> None:
        """A method."""

    @staticmethod
    def drop() -> None:
        """A static method, which can be found like a function."""

    @classmethod
    def make(cls) -> None:
        """A class method, which is bound to its class."""


def function(*args: Any) -> None:
    """A module-level function."""


@pytest.fixture
def conftest(tmp_path: Path) -> Iterator[types.ModuleType]:
    """A module loaded as pytest does it: not importable by name, and known only to the plugin."""
    file = tmp_path / "conftest.py"
    file.write_text("def undo(): ...\nclass Box:\n    def open(self): ...\n")
    specification = importlib.util.spec_from_file_location("conftest", file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    sys.modules.pop("conftest", None)


def test_a_reference_has_the_file_of_the_function() -> None:
    """The file is relative to the root, so that a checkout can be moved."""
    assert REFERENCES.of(function) == Reference(__name__, "function", HERE.name)


@pytest.mark.parametrize("target", [function, Client, Client.close, Client.drop, os.path.join, len])
def test_a_module_level_target_is_found_again(target: Any) -> None:
    """This includes classes, functions of classes, and built-in functions."""
    assert REFERENCES.follow(REFERENCES.of(target)) is target


def test_a_file_outside_of_the_root_is_absolute(tmp_path: Path) -> None:
    """It does not belong to the project, and does not move with it."""
    references = References(tmp_path)
    assert references.of(function).file == str(HERE)
    assert references.follow(references.of(function)) is function


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (lambda: None, "lambda"),
        (Client().close, "'Client.close' is not a module-level function"),
        (Client.make, "'Client.make' is not a module-level function"),
        (
            functools.partial(function, "canary"),
            "an object of type 'partial' is not a module-level function",
        ),
        (Client(), "an object of type 'Client' is not a module-level function"),
    ],
    ids=["lambda", "method", "classmethod", "partial", "object"],
)
def test_a_target_without_a_location_is_refused(target: Any, message: str) -> None:
    """The message has no repr of the target, which may contain a secret."""
    with pytest.raises(NotDurableError) as caught:
        REFERENCES.of(target)
    assert message in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_function_with_a_wrong_name_is_refused() -> None:
    """Its module has another function of that name."""

    def other() -> None:
        """A function that claims to be another one."""

    other.__qualname__ = "function"
    with pytest.raises(NotDurableError, match="cannot be found by name"):
        REFERENCES.of(other)


class TestConftest:
    """Modules that only pytest has loaded."""

    def test_its_functions_are_found_by_the_file(self, conftest: types.ModuleType) -> None:
        """The name of the module does not matter."""
        references = References(Path(str(conftest.__file__)).parent, lambda: [conftest])
        for target in (conftest.undo, conftest.Box, conftest.Box.open):
            reference = references.of(target)
            assert reference.file == "conftest.py"
            assert references.follow(reference) is target

    def test_it_is_never_imported(self, conftest: types.ModuleType) -> None:
        """An import by name could find another conftest."""
        root = Path(str(conftest.__file__)).parent
        reference = References(root, lambda: [conftest]).of(conftest.undo)
        with pytest.raises(LookupError, match=r"conftest\.py is not loaded"):
            References(root, lambda: []).follow(reference)

    def test_a_missing_function_is_reported(self, conftest: types.ModuleType) -> None:
        """The function may have been renamed or removed since."""
        references = References(Path(str(conftest.__file__)).parent, lambda: [conftest])
        reference = references.of(conftest.undo)
        del conftest.undo
        with pytest.raises(LookupError, match=r"conftest\.py no longer defines 'undo'"):
            references.follow(reference)


class TestModule:
    """Modules that can be imported."""

    @pytest.fixture(autouse=True)
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder on the import path."""
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    def test_it_is_imported_when_it_is_not_loaded(self, path: Path) -> None:
        """The process may not have needed the module until now."""
        (path / "undo_module.py").write_text("def undo(): return 7\n")
        found = References(path).follow(Reference("undo_module", "undo", "undo_module.py"))
        assert found() == 7
        del sys.modules["undo_module"]

    @pytest.mark.parametrize("source", ["raise OSError('no disk')", "def undo(:"])
    def test_a_module_that_cannot_be_imported_is_reported(self, path: Path, source: str) -> None:
        """The message has the file and the reason."""
        (path / "broken_module.py").write_text(source)
        with pytest.raises(LookupError, match=r"broken_module\.py cannot be imported: "):
            References(path).follow(Reference("broken_module", "undo", "broken_module.py"))

    def test_a_missing_module_is_reported(self, path: Path) -> None:
        """The file may have been removed since."""
        with pytest.raises(LookupError, match=r"gone_module\.py cannot be imported"):
            References(path).follow(Reference("gone_module", "undo", "gone_module.py"))
