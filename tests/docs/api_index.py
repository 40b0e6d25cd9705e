"""Lists of all public names, each with a link to its description."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest_plan
import pytest_plan.steps
from pytest_plan.plugin.interface import hookspecs
from tests.docs.google import paragraph, summary
from tests.docs.pages import path_of

_HERE = "api"  # the page with the lists
_PAGES = (_HERE, "errors", "hooks", "ready-made-steps")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_DESCRIBED = re.compile(r"^<!-- (?:api|steps): (\w+)", re.MULTILINE)


def listed(what: str) -> str:
    """Return the list of the names of a package, or of all hooks.

    Args:
        what: `pytest_plan`, `pytest_plan.steps` or `hooks`.
    """
    links: dict[str, str] = {}
    for page in _PAGES:
        text = path_of(f"reference/{page}").read_text()
        found = anchors(text)
        file = "" if page == _HERE else f"{page}.md"
        links |= {name: f"{file}#{found[f'`{name}`']}" for name in _DESCRIBED.findall(text)}
    owner: Any = {
        "pytest_plan": pytest_plan,
        "pytest_plan.steps": pytest_plan.steps,
        "hooks": hookspecs,
    }[what]
    names = getattr(owner, "__all__", None) or [one for one in links if hasattr(hookspecs, one)]
    return "\n".join(
        paragraph(
            f"- [`{name}`]({links[name]}): {summary(getattr(owner, name).__doc__)}", indent="  "
        )
        for name in sorted(names)
    )


def anchor(heading: str) -> str:
    """Return the anchor of a heading, on the site and on a forge such as GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(text: str) -> dict[str, str]:
    """Return the anchors of the headings of a page; one that is taken gets a number."""
    found: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for heading in _HEADING.findall(_CODE.sub("", text)):
        name = anchor(heading)
        found[heading] = f"{name}-{taken[name]}" if taken[name] else name
        taken[name] += 1
    return found
