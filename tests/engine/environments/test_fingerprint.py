"""Fingerprints of steps, which cover their source, their options and their inputs."""

from __future__ import annotations

import ast
import importlib.util
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_plan import GenericStep, Plan
from pytest_plan.engine.environments.fingerprint import Fingerprints
from pytest_plan.engine.plan import definition_of

SOURCE = """
import os

VERSION = 1
UNRELATED = 1

def helper():
    return VERSION

def build(ctx):
    return helper()

def drop():
    pass

class Client:
    limit = 5

    def ask(self):
        return VERSION
"""
Print = Callable[..., str]
Fits = Callable[..., bool]


def _build() -> None:
    """A hook without parameters."""


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], ModuleType]:
    """Write a module and import it, without the cache of an earlier import."""

    def load(source: str) -> ModuleType:
        file = tmp_path / "steps.py"
        file.write_text(textwrap.dedent(source))
        spec = importlib.util.spec_from_file_location("steps", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def _prints(module: ModuleType, hook: str = "build", **options: Any) -> Fingerprints:
    """Return the fingerprints of one step `a` with a hook of this module."""
    plan = Plan().add_step(GenericStep(exec=getattr(module, hook)), name="a", **options)
    return Fingerprints(definition_of(plan).linked)


@pytest.fixture
def fingerprint(load: Callable[[str], ModuleType]) -> Print:
    """Return the fingerprint of a step whose hooks a source defines."""

    def fingerprint(source: str = SOURCE, hook: str = "build", **options: Any) -> str:
        return _prints(load(source), hook, **options).of("a")

    return fingerprint


@pytest.fixture
def fits(load: Callable[[str], ModuleType], fingerprint: Print) -> Fits:
    """Return whether a step with this source fits the fingerprint of SOURCE."""

    def fits(source: str = SOURCE, hook: str = "build", **options: Any) -> bool:
        before = fingerprint()
        return _prints(load(source), hook, **options).fits("a", before)

    return fits


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return helper()", "return helper() + 1"),
        ("VERSION = 1", "VERSION = 2"),
        ("return VERSION", "return VERSION + 1"),
    ],
)
def test_a_change_of_what_its_hooks_name_is_a_change(fits: Fits, old: str, new: str) -> None:
    """Functions and constants in the same file count, even if named indirectly."""
    assert not fits(SOURCE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("UNRELATED = 1", "UNRELATED = 2"),
        ("def drop():\n    pass", "def drop():\n    return 1"),
        ("\nVERSION = 1", "\n\n# A comment.\nVERSION = 1  # another"),
        ("    return helper()", "    return helper()  # why"),
    ],
)
def test_what_its_hooks_do_not_name_is_no_change(fits: Fits, old: str, new: str) -> None:
    """Comments and the position in the file do not count either."""
    assert fits(SOURCE.replace(old, new))


def test_a_file_that_has_not_changed_is_not_parsed(
    load: Callable[[str], ModuleType], fingerprint: Print, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that reuses every step does not spend time on parsing."""
    before = fingerprint()
    prints = _prints(load(SOURCE))
    with monkeypatch.context() as patch:
        patch.setattr(ast, "parse", None)
        assert prints.fits("a", before)


def test_another_hook_of_the_same_file_is_a_change(fits: Fits) -> None:
    """Two steps of one file have different fingerprints."""
    assert fits()
    assert not fits(hook="drop")


def test_a_fingerprint_that_is_none_fits_nothing(load: Callable[[str], ModuleType]) -> None:
    """The journal of an unnamed run has an empty fingerprint."""
    assert not _prints(load(SOURCE)).fits("a", "")


def test_a_class_counts_as_a_whole(load: Callable[[str], ModuleType], fingerprint: Print) -> None:
    """A hook that names a class depends on all of its methods."""
    source = SOURCE.replace("return helper()", "return Client()")
    before = fingerprint(source)
    assert not _prints(load(source.replace("limit = 5", "limit = 6"))).fits("a", before)


@pytest.mark.parametrize("options", [{"retries": 1}, {"timeout": 5}, {"needs": ()}])
def test_options_count(fits: Fits, options: dict[str, Any]) -> None:
    """An option that changes how a step is provisioned changes its fingerprint."""
    assert not fits(**options)


@pytest.mark.parametrize("option", ["eager", "autouse"])
def test_options_that_say_when_it_runs_do_not(fingerprint: Print, option: str) -> None:
    """These options do not change what the step provides."""
    assert fingerprint() == fingerprint(**{option: True})


def test_inputs_count(fingerprint: Print, tmp_path: Path) -> None:
    """Changing, removing or adding a file of `inputs` changes the fingerprint."""
    inputs = os.fspath(tmp_path / "schema.sql")
    missing = fingerprint(inputs=inputs)
    Path(inputs).write_text("CREATE TABLE a")
    one = fingerprint(inputs=inputs)
    Path(inputs).write_text("CREATE TABLE b")
    assert len({missing, one, fingerprint(inputs=inputs), fingerprint()}) == 4


def test_globs_are_relative_to_the_declaration(tmp_path: Path) -> None:
    """An added file changes the fingerprint."""
    step = GenericStep(exec=_build)
    plan = Plan().add_step(step, name="a", inputs=["sql/*.sql"])

    def made() -> str:
        planned = definition_of(plan).linked()["a"]._replace(origin=f"{tmp_path}/conftest.py:1")
        return Fingerprints(lambda: {"a": planned}).of("a")

    (tmp_path / "sql").mkdir()
    before = made()
    (tmp_path / "sql" / "1.sql").write_text("")
    assert before != made()
    assert made() == made()


def test_the_fingerprints_of_needs_count(load: Callable[[str], ModuleType]) -> None:
    """A step has changed if a step that it needs has changed."""

    def second(source: str) -> Fingerprints:
        module = load(source)
        plan = Plan().add_step(GenericStep(exec=module.build), name="a")
        plan.add_step(GenericStep(exec=module.drop), name="b", needs=["a"])
        return Fingerprints(definition_of(plan).linked)

    before = second(SOURCE).of("b")
    assert second(SOURCE).fits("b", before)
    assert not second(SOURCE.replace("VERSION = 1", "VERSION = 2")).fits("b", before)


def test_what_cannot_be_read_is_always_new(
    load: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    """A step whose source cannot be read never counts as unchanged."""
    module = load(SOURCE)
    plan = Plan().add_step(GenericStep(exec=module.build), name="a")
    before = Fingerprints(definition_of(plan).linked).of("a")
    (tmp_path / "steps.py").unlink()
    unread = Fingerprints(definition_of(plan).linked)
    assert not unread.fits("a", before)
    assert not Fingerprints(definition_of(plan).linked).fits("a", unread.of("a"))
