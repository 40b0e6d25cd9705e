"""The generated parts of pages, each between two markers.

`<!-- KIND: WHAT -->` begins a part, and `<!-- end -->` ends it. The text outside the markers is
written by hand; the text between them is generated from the code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from tests.docs import api_index, api_pages, rooms

_PART = re.compile(r"(<!-- (\w+): (.+?) -->\n).*?(<!-- end -->\n)", re.DOTALL)
KINDS: Mapping[str, Callable[[str], str]] = {
    "api": api_pages.described,
    "floors": rooms.picture,
    "names": api_index.listed,
    "rooms": rooms.described,
    "steps": api_pages.described_step,
}


def parts(page: str) -> list[tuple[str, str]]:
    """Return the kind and the argument of each generated part in a page's text."""
    return [(found[2], found[3]) for found in _PART.finditer(page)]


def filled(page: str) -> str:
    """Return the text of a page with every generated part up to date."""
    return _PART.sub(lambda found: f"{found[1]}\n{KINDS[found[2]](found[3])}\n\n{found[4]}", page)
