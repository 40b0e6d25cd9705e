"""The generated parts of pages match the code."""

from __future__ import annotations

import difflib

import pytest

from tests.docs.api_index import anchors
from tests.docs.generated import filled, parts
from tests.docs.google import markdown
from tests.docs.pages import WRITES, pages, path_of

GENERATED = [page for page in pages() if parts(path_of(page).read_text())]


@pytest.mark.parametrize("page", GENERATED)
def test_generated_parts_are_what_the_code_says(page: str) -> None:
    """Every page matches the code; a failure shows the diff, and DOCS_WRITE=1 updates the page."""
    shown = path_of(page).read_text()
    wanted = filled(shown)
    if WRITES:
        path_of(page).write_text(wanted)
    before, after = (text.splitlines(keepends=True) for text in (shown, wanted))
    difference = "".join(difflib.unified_diff(before, after, page, "the code"))
    if difference:
        pytest.fail(f"{difference}\nTo update the page: DOCS_WRITE=1 pytest tests/docs")


def test_only_the_generated_part_is_replaced() -> None:
    """Text written by hand before, between and after the generated parts is unchanged."""
    page = "before\n<!-- api: StateError -->\nold\n<!-- end -->\nafter\n"
    text = filled(page)
    assert text.startswith("before\n<!-- api: StateError -->\n\n### `StateError`\n")
    assert text.endswith("\n<!-- end -->\nafter\n")
    assert "old" not in text
    assert filled(text) == text


DOCSTRING = """Do it.

    A second
    paragraph.

    Args:
        one: the first, which needs
            two lines.
        two: the second.

    Returns:
        What came of it.

    Raises:
        ValueError: it cannot be done.
    """


def test_docstring_becomes_markdown() -> None:
    """Lines of a paragraph are joined, and sections become lists."""
    assert markdown(DOCSTRING) == (
        "Do it.\n\nA second paragraph.\n\n"
        "**Arguments**\n\n- `one`: the first, which needs two lines.\n- `two`: the second.\n\n"
        "**Returns**\n\nWhat came of it.\n\n"
        "**Raises**\n\n- `ValueError`: it cannot be done."
    )


def test_attributes_have_their_types() -> None:
    """An attribute whose type is known is listed with its type."""
    docstring = "A thing.\n\nAttributes:\n    size: in bytes.\n    name: what it is called."
    assert markdown(docstring, {"size": "int"}) == (
        "A thing.\n\n**Attributes**\n\n- `size` (`int`): in bytes.\n- `name`: what it is called."
    )


def test_headings_have_the_anchors_of_forges() -> None:
    """`Service` and `service` have different anchors; comments in code are no headings."""
    page = "# All names\n### `service`\n```py\n# code\n```\n### `Service`\n#### `Plan.add_step`\n"
    assert anchors(page) == {
        "All names": "all-names",
        "`service`": "service",
        "`Service`": "service-1",
        "`Plan.add_step`": "planadd_step",
    }
