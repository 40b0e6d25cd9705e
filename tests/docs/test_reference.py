"""The reference is complete: it describes every option, every public name and every hook."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import pytest_plan
from pytest_plan import steps
from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.options import OPTION_NAMES, StepOptions
from pytest_plan.engine.model.durations import parse_duration
from pytest_plan.plugin.declaring import declaration as declare
from pytest_plan.plugin.interface import hookspecs
from pytest_plan.plugin.interface.known_options import OPTIONS
from pytest_plan.plugin.items.handle import PlanHandle
from tests.docs.api_pages import overloads_of
from tests.docs.generated import parts
from tests.docs.pages import pages, path_of
from tests.plugin.project import ROOT

TABLES = path_of("reference/steps-and-options").read_text()
PAGES = ("api", "errors", "hooks")
NOT_FOR_USERS = {"pytest_plan_show"}  # the plugin calls it to print the plan


def names_on(page: str) -> list[str]:
    """Return the names that the generated parts of a reference page describe."""
    found = parts(path_of(f"reference/{page}").read_text())
    return [re.split(r"[(:]", what)[0] for kind, what in found if kind == "api"]


def first_cells(heading: str) -> set[str]:
    """Return the code in the first cells of the tables below a heading."""
    section = re.split(r"^## ", TABLES, flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(heading))
    cells = re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
    return {code for cell in cells for code in re.findall(r"`([^`]+)`", cell)}


def test_every_option_is_in_the_table() -> None:
    """The table lists exactly the existing options, by flag or, without a flag, by ini name."""
    known = {option.flag if option.in_command_line else option.dest for option in OPTIONS}
    assert {cell.split()[0] for cell in first_cells("Options")} == known


def test_every_option_of_a_step_is_in_the_table() -> None:
    """The table lists exactly the options of `plan_step`, except `skip`, which has its own mark."""
    known = {"name", *OPTION_NAMES, *declare._HOOK_OPTIONS} - {"skip"}
    assert first_cells("`@pytest.mark.plan_step") == known


def test_table_of_a_step_has_the_types_and_defaults_of_the_decorator() -> None:
    """Types and defaults are those of `plan_step`; text describes a default that follows."""
    rows = re.findall(r"^\| (`.+?) \| (.+?) \| (.+?) \|", TABLES.partition("\n## ")[2], re.M)
    shown = {
        name: (kind, default)
        for cell, kind, default in rows
        for name in re.findall(r"`(\w+)`", cell)
    }
    parameters = inspect.signature(overloads_of(pytest_plan.plan_step)[1]).parameters
    assert {name: shown[name][0] for name in parameters} == {
        name: _kinds(one.annotation) for name, one in parameters.items()
    }
    wrong = {
        name: (shown[name][1], one.default)
        for name, one in parameters.items()
        if not _means(shown[name][1], one.default)
    }
    assert wrong == {}
    engine = {**StepOptions._field_defaults, "retry_on": Exception}
    assert {name: one.default for name, one in parameters.items() if name in engine} == {
        name: default for name, default in engine.items() if name != "skip"
    }


def _kinds(annotation: str) -> str:
    """Return an annotation as the table shows it, without None."""
    annotation = annotation.replace("Hook", "Callable[..., Any]").replace("'", '"')
    literal = re.fullmatch(r"Literal\[(.+)\]", annotation)
    kinds = literal[1].split(", ") if literal else annotation.split(" | ")
    return " or ".join(f"`{kind}`" for kind in kinds if kind != "None")


def _means(cell: str, default: Any) -> bool:
    """Return whether the cell of the table shows this default."""
    if default is None or default == ():
        return "`" not in cell
    if isinstance(default, float):
        return parse_duration(cell.strip("`"), cell) == default
    shown = default.__name__ if isinstance(default, type) else repr(default).replace("'", '"')
    return cell == f"`{shown}`"


@pytest.mark.parametrize(
    ("heading", "prefix", "owner"), [("`ctx`", "ctx.", Context), ("In tests", "", PlanHandle)]
)
def test_every_public_name_is_in_the_table(heading: str, prefix: str, owner: type) -> None:
    """The tables list every public name of a hook's `ctx` and of a test's `plan`."""
    known = {name for name in vars(owner) if not name.startswith("_")}
    cells = " ".join(first_cells(heading)) + TABLES.split("| `plan` | `")[1].split("`")[0]
    assert {name for name in known if f"{prefix}{name}" not in cells} == set()


def test_every_public_name_is_described_once() -> None:
    """The pages of the API, the errors and the hooks describe exactly the public names."""
    described = [name for page in PAGES for name in names_on(page)]
    public = [name for name in described if not name.startswith("pytest_plan_")]
    assert sorted(public) == pytest_plan.__all__


def test_every_ready_made_step_is_described_once() -> None:
    """The page of the ready-made steps describes exactly the public names of that package."""
    found = parts(path_of("reference/ready-made-steps").read_text())
    assert sorted(what for kind, what in found if kind == "steps") == sorted(steps.__all__)


def test_every_hook_is_described_once() -> None:
    """The page of the hooks describes each hook once, except the internal ones."""
    hooks = {name for name in vars(hookspecs) if name.startswith("pytest_plan_")}
    assert hooks > NOT_FOR_USERS
    described = [name for name in names_on("hooks") if not name[0].isupper()]
    assert sorted(described) == sorted(hooks - NOT_FOR_USERS)


def test_tree_of_errors_is_what_the_classes_say() -> None:
    """Every error is below its base class, with its other base in parentheses."""
    tree = path_of("reference/errors").read_text().split("```")[1]
    rows = re.findall(r"^([ │├└─]*)(\w+) *(?:\((\w+)\))?", tree.partition("\n")[2], re.MULTILINE)
    shown: dict[str, tuple[str, ...]] = {}
    above: dict[int, str] = {}
    for lines, name, other in rows:
        above[len(lines)] = name
        if lines:
            shown[name] = (above[len(lines) - 4], *filter(None, [other]))
    errors = [getattr(pytest_plan, name) for name in names_on("errors")]
    assert shown == {
        error.__name__: tuple(base.__name__ for base in error.__bases__)
        for error in errors
        if error is not pytest_plan.PlanError
    }


@pytest.mark.parametrize("page", pages())
def test_files_of_the_repository_that_a_page_names_exist(page: str) -> None:
    """A page names no test and no module that has been moved or removed."""
    text = re.sub(r"^# tests/.*", "", path_of(page).read_text(), flags=re.MULTILINE)  # of users
    named = set(re.findall(r"\b(?:tests|pytest_plan)/[\w/]+\.py\b", text))
    assert {name for name in named if not (ROOT / name).exists()} == set()
