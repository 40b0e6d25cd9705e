"""Every command in a block, on every page of the repository, is run by a test or is listed."""

from __future__ import annotations

import re
from itertools import takewhile

from tests.docs.not_run import ELSEWHERE, NOT_RUN
from tests.docs.pages import DOCS, commands_run, pages
from tests.plugin.project import ROOT

FILES = [
    path.relative_to(ROOT).as_posix() for path in sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
]
PAGES = {f"docs/{page}.md": page for page in pages()}
SHELLS = {"bash", "console", "sh", "shell"}
_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_PROGRAM = re.compile(
    r"(?:[A-Z_]+=\S* )*(?:pytest|python\d?|pip|tox|docker|git|ruff|sphinx-build|\S+/bin/\w+)(?: |$)"
)


def typed(text: str) -> list[str]:
    """Return the commands in the blocks of a page, without their comments.

    A block may be indented. One of another language counts if it begins with a known program.
    """
    found: list[str] = []
    for indent, language, indented in _FENCED.findall(text):
        block = re.sub(rf"^{indent}", "", indented, flags=re.MULTILINE)
        lines = re.sub(r" *\\\n *", " ", block).splitlines()
        if lines[0].startswith("$ "):
            found += [line[2:] for line in takewhile(lambda line: line.startswith("$ "), lines)]
        elif language in SHELLS or _PROGRAM.match(lines[0]):
            found += lines
    return [re.sub(r"  +# .*", "", line).strip() for line in found]


def test_each_command_is_run_or_listed() -> None:
    """A new command that no test runs needs a line in tests/docs/not_run.py, with the reason.

    A command that is gone, or that a test runs now, has no such line.
    """
    not_run = {file: _found(file) - _run(file) for file in FILES}
    assert {file: lines for file, lines in not_run.items() if lines} == {
        file: set(lines) for file, lines in NOT_RUN.items()
    }


def test_each_command_that_is_run_is_found() -> None:
    """The search for commands does not overlook what the tests of the pages run."""
    assert {file: _run(file) - _found(file) for file in FILES} == {file: set() for file in FILES}


def test_each_listed_page_exists() -> None:
    """A page that is gone is not listed any more."""
    assert set(NOT_RUN) <= set(FILES)
    assert set(ELSEWHERE) <= set(PAGES.values())


def test_commands_in_all_kinds_of_blocks_are_seen() -> None:
    """Shell blocks, other blocks that begin with a program, and indented blocks count."""
    page = (
        "```console\n$ one\nanswer\n```\n```bash\ntwo  # why\n```\n1. do it:\n\n"
        "   ```text\n   X=1 pytest -q \\\n       --lf\n   ```\n```text\nplan: pytest\n```\n"
    )
    assert typed(page) == ["one", "two", "X=1 pytest -q --lf"]


def _found(file: str) -> set[str]:
    return set(typed((ROOT / file).read_text()))


def _run(file: str) -> set[str]:
    return {command.line for command in commands_run(PAGES[file])} if file in PAGES else set()
