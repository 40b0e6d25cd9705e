"""The reference is complete: it has every option, every public name, every hook."""

from __future__ import annotations

import re

import pytest

import pytest_plan
from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.options import OPTION_NAMES
from pytest_plan.plugin import hookspecs, options
from pytest_plan.plugin.declaring import declaration as declare
from pytest_plan.plugin.items.handle import PlanHandle
from tests.docs.pages import path_of

TABLES = path_of("reference/steps-and-options").read_text()
NOT_FOR_USERS = {"pytest_plan_show"}  # how the plugin reaches the reports


def first_cells(heading: str) -> set[str]:
    """Return what is written as code in the first cells of the tables below a heading."""
    section = re.split(r"^## ", TABLES, flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(heading))
    cells = re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
    return {code for cell in cells for code in re.findall(r"`([^`]+)`", cell)}


def test_every_option_is_in_the_table() -> None:
    """By its flag, or by its ini value when there is no flag; and no other is."""
    known = {option.flag if option.in_command_line else option.dest for option in options._OPTIONS}
    assert {cell.split()[0] for cell in first_cells("Options")} == known


def test_every_option_of_a_step_is_in_the_table() -> None:
    """Those of the mark `plan_step`; `skip` is a mark of its own there."""
    known = {"name", *OPTION_NAMES, *declare._HOOK_OPTIONS} - {"skip"}
    assert first_cells("`@pytest.mark.plan_step") == known


@pytest.mark.parametrize(
    ("heading", "prefix", "owner"), [("`ctx`", "ctx.", Context), ("In tests", "", PlanHandle)]
)
def test_every_public_name_is_in_the_table(heading: str, prefix: str, owner: type) -> None:
    """What a hook's `ctx` and a test's `plan` have."""
    known = {name for name in vars(owner) if not name.startswith("_")}
    cells = " ".join(first_cells(heading)) + TABLES.split("| `plan` | `")[1].split("`")[0]
    assert {name for name in known if f"{prefix}{name}" not in cells} == set()


def test_every_public_class_is_described() -> None:
    """Errors on their page, all others on that of the API."""
    pages = path_of("reference/api").read_text() + path_of("reference/errors").read_text()
    described = set(re.findall(r"auto(?:class|exception):: pytest_plan\.([A-Z]\w+)", pages))
    assert described == set(pytest_plan.__all__)


def test_every_hook_is_described() -> None:
    """The page takes all from the module of the hooks, but for our own."""
    page = path_of("reference/hooks").read_text()
    left_out = re.findall(r":exclude-members: (.+)", page)
    assert left_out == [", ".join(sorted(NOT_FOR_USERS))]
    hooks = {name for name in vars(hookspecs) if name.startswith("pytest_plan_")}
    assert hooks > NOT_FOR_USERS
    for name in hooks:
        assert getattr(hookspecs, name).__doc__
