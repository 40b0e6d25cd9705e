"""The pages for contributors use names that exist, and omit no lock, thread, table or room."""

from __future__ import annotations

import re

import pytest

from pytest_plan.engine.journal.schema import FORMAT, TABLES
from tests.docs import rooms
from tests.docs.generated import parts
from tests.docs.names import (
    code_exists,
    code_names,
    file_exists,
    file_names,
    locks,
    thread_makers,
)
from tests.docs.pages import pages, path_of
from tests.test_layers import FLOORS

WALKS = path_of("development/life-of-a-step").read_text()
PAGES = [page for page in pages() if page.startswith("development/")]
JOURNAL = path_of("development/journal-format").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_every_name_on_the_page_exists(page: str) -> None:
    """All modules, classes, functions, attributes, files and folders on the page exist."""
    assert [name for name in code_names(page) if not code_exists(name)] == []
    assert [name for name in file_names(page) if not file_exists(name)] == []


@pytest.mark.parametrize(
    "name",
    [
        "execution.coordination.executor.Executor._lock",
        "engine.plan.Plan.execute",
        "journal.schema",
        "plugin.interface.known_options.OPTIONS",
    ],
)
def test_names_that_exist_are_found(name: str) -> None:
    """Names are found with or without their layer; this includes attributes of instances."""
    assert code_exists(name)


@pytest.mark.parametrize(
    "name",
    [
        "execution.coordination.executor.Executor._no_such_lock",
        "engine.plan.Plan.no_such_method",
        "journal.no_such_module",
        "no_such_room.module.function",
    ],
)
def test_names_that_do_not_exist_are_refused(name: str) -> None:
    """Names that do not exist, for example after a renaming, are reported."""
    assert not code_exists(name)


def test_every_hop_of_a_walk_names_a_function() -> None:
    """Each numbered item of a walk names the code where the reader can look."""
    hops = re.findall(r"^\d+\. (?:.+\n?(?:   .+\n)*)", WALKS, re.MULTILINE)
    assert len(hops) > 40
    assert [hop for hop in hops if not re.search(r"`\w+(\.\w+){2,}`", hop)] == []


def test_every_lock_is_on_its_page() -> None:
    """The page about threads lists every lock and condition of the package, and no others."""
    page = "development/threads-and-locks"
    section = path_of(page).read_text().partition("## Locks")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE)
    assert sorted(listed) == sorted(locks())


def test_every_module_that_makes_threads_is_on_the_page() -> None:
    """The page about threads names every module that creates threads."""
    named = code_names("development/threads-and-locks")
    assert [module for module in thread_makers() if module not in named] == []


def test_every_column_of_the_journal_is_described() -> None:
    """The page describes the current format, with every column of every table."""
    assert f"format {FORMAT}" in JOURNAL
    for table, columns in TABLES.items():
        section = (
            JOURNAL.partition(f"### `{table}`")[2].partition("\n### ")[0].partition("\n## ")[0]
        )
        assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(columns)


def test_every_layer_has_its_rooms_on_the_page() -> None:
    """The pictures show all layers, and each layer has its list of rooms."""
    page = path_of("development/architecture").read_text()
    layers = {package.rpartition(".")[2] for package in FLOORS}
    kinds = parts(page)
    assert {what for kind, what in kinds if kind == "rooms"} == layers
    drawn = [layer for kind, what in kinds if kind == "floors" for layer in what.split()]
    assert sorted(drawn) == sorted(layers)


@pytest.mark.parametrize("layer", ["engine", "plugin", "report", "sharing", "steps"])
def test_rooms_are_listed_from_the_ground_up(layer: str) -> None:
    """Rooms are listed in the order of their floors; a room without a floor comes last."""
    floors = [name for floor in FLOORS[f"pytest_plan.{layer}"] for name in floor]
    listed = rooms.entries(layer)
    assert [name for name in listed if name in floors] == floors
    assert listed[: len(floors)] == floors
