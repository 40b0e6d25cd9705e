"""Converts docstrings in Google style to Markdown."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping

WIDTH = 100
_SECTION = re.compile(r"(Args|Attributes|Returns|Raises):")
_TITLES = {"Args": "Arguments"}
_NO_TYPES: Mapping[str, str] = {}


def markdown(docstring: str, types: Mapping[str, str] = _NO_TYPES) -> str:
    """Return a docstring as paragraphs, with `Args`, `Attributes` and `Raises` as lists.

    Args:
        docstring: the docstring as written in the code.
        types: the types to show in the list of attributes, by name.
    """
    parts = inspect.cleandoc(docstring).split("\n\n")
    return "\n\n".join(_part(part, types) for part in parts)


def summary(docstring: str) -> str:
    """Return the first paragraph of a docstring on one line."""
    return " ".join(inspect.cleandoc(docstring).partition("\n\n")[0].split())


def paragraph(text: str, *, indent: str = "") -> str:
    """Return text as one wrapped paragraph; `indent` precedes every line except the first."""
    return textwrap.fill(
        " ".join(text.split()),
        WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _part(part: str, types: Mapping[str, str]) -> str:
    heading, _, body = part.partition("\n")
    section = _SECTION.fullmatch(heading)
    if section is None:
        return paragraph(part)
    title = f"**{_TITLES.get(section[1], section[1])}**"
    if section[1] == "Returns":
        return f"{title}\n\n{paragraph(body)}"
    shown = types if section[1] == "Attributes" else _NO_TYPES
    items = re.split(r"\n(?=\S)", textwrap.dedent(body))
    return "\n".join([title, "", *(_item(item, shown) for item in items)])


def _item(text: str, types: Mapping[str, str]) -> str:
    name, _, meaning = text.partition(": ")
    kind = f" (`{types[name]}`)" if name in types else ""
    return paragraph(f"- `{name}`{kind}: {meaning}", indent="  ")
