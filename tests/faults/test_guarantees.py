"""The pages about guarantees and the tests of this folder list the same promises and faults."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.faults.harness import table

_HERE = Path(__file__).parent


def test_g13_the_check_for_residue_is_on_for_every_test(request: object) -> None:
    """Every test of this folder uses the fixture that looks for leftovers."""
    assert "nothing_left_behind" in request.fixturenames  # type: ignore[attr-defined]


def test_every_guarantee_has_tests_and_every_test_a_guarantee() -> None:
    """The guarantees on the page have the same numbers as those in the names of the tests."""
    text = table.PROMISES.read_text(encoding="utf-8")
    promised = re.findall(r"^### (G\d+): ", text, re.MULTILINE)
    names = [name for path in _HERE.glob("test_*.py") for name in _tests(path)]
    tested = {number for name in names if (number := table.guarantee_of(name))}
    assert tested == set(promised) == {f"G{number}" for number in range(1, 22)}
    assert len(promised) == len(set(promised))


def test_every_test_of_a_fault_names_its_guarantee() -> None:
    """Every test has the number of a guarantee in its name, because the table counts by number."""
    for path in _HERE.glob("test_*.py"):
        unnamed = [name for name in _tests(path) if table.guarantee_of(name) is None]
        assert path == Path(__file__) or not unnamed


def test_the_page_lists_the_rows_that_are_injected() -> None:
    """The rows marked as injected are exactly the rows in the docstrings of the tests."""
    text = table.PAGE.read_text(encoding="utf-8")
    lines = [line.split("|") for line in text.splitlines() if re.match(r"\| \d", line)]
    listed = [row for line in lines if not line[3].startswith(" no") for row in _rows(line[1])]
    assert listed == sorted(set(listed))
    assert set(listed) == {row for path in _HERE.glob("test_*.py") for row in _rows_of(path)}
    assert {row for line in lines for row in _rows(line[1])} == set(range(1, 96))


def test_the_table_has_no_violation() -> None:
    """The published table comes from a complete run without a violation."""
    text = table.PAGE.read_text(encoding="utf-8")
    rows = text.partition(table.BEGIN)[2].partition(table.END)[0].strip().splitlines()
    assert rows[-1].startswith("| all |")
    assert rows[-1].endswith("| 0 |")


def _rows_of(path: Path) -> set[int]:
    """Return the rows in the docstrings of a module's tests."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    docs = [ast.get_docstring(function) or "" for function in functions]
    said = [match[1] for doc in docs if (match := re.match(r"Rows? ([\d, andto]+)", doc))]
    return {row for text in said for row in _rows(text)}


def _rows(text: str) -> list[int]:
    rows: list[int] = []
    for first, last in re.findall(r"(\d+)(?: to (\d+))?", text):
        rows += range(int(first), int(last or first) + 1)
    return rows


def _tests(path: Path) -> list[str]:
    module = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node.name
        for node in module.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
