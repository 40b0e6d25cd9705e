"""Describes the rooms of the package in Markdown, from the docstrings of folders and modules."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.docs.google import paragraph, summary
from tests.test_layers import FLOORS, PACKAGE

_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z`])")
_WIDTH = 48  # width of the picture


def described(layer: str) -> str:
    """Return the rooms of a layer, from the ground up, each with its modules."""
    return "\n\n".join(_room(PACKAGE / layer / name) for name in entries(layer))


def entries(layer: str) -> list[str]:
    """Return the rooms and top-level modules of a layer, in the order of its floors."""
    folder = PACKAGE / layer
    there = [path.stem for path in sorted(folder.iterdir()) if _is_code(path)]
    known = [name for floor in FLOORS[f"pytest_plan.{layer}"] for name in floor]
    return sorted(there, key=lambda name: known.index(name) if name in known else len(known))


def picture(layers: str) -> str:
    """Return these layers as boxes that show their floors, with the first layer on top."""
    boxes = [_box(layer) for layer in layers.split()]
    arrow = f"{'▼':^{_WIDTH}}".rstrip()
    return "\n".join(["```text", f"\n{arrow}\n".join(boxes), "```"])


def _box(layer: str) -> str:
    floors = reversed(FLOORS[f"pytest_plan.{layer}"])
    lines = [f"│  {' · '.join(floor)}" for floor in floors]
    return "\n".join(
        [
            f"┌─ {layer} ".ljust(_WIDTH - 1, "─") + "┐",
            *(f"{line:<{_WIDTH - 1}}│" for line in lines),
            "└" + "─" * (_WIDTH - 2) + "┘",
        ]
    )


def _room(path: Path) -> str:
    if not path.is_dir():
        return f"### `{_name(path.with_suffix('.py'))}`\n\n{_sentence(path.with_suffix('.py'))}"
    sentence = paragraph(summary(_docstring(path / "__init__.py")))
    return "\n\n".join([f"### `{_name(path)}`", sentence, "\n".join(_modules(path))])


def _modules(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*.py")):
        if path.stem != "__init__":
            name = path.relative_to(folder).as_posix()
            yield paragraph(f"- `{name}`: {_sentence(path)}", indent="  ")


def _sentence(file: Path) -> str:
    return _SENTENCE.split(summary(_docstring(file)))[0]


def _docstring(file: Path) -> str:
    text = ast.get_docstring(ast.parse(file.read_text()))
    assert text, f"{file} has no docstring"
    return text


def _is_code(path: Path) -> bool:
    if path.is_dir():
        return (path / "__init__.py").exists()
    return path.suffix == ".py" and path.stem != "__init__"


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()
