"""Pages of the documentation as readers use them: files to write and commands to type."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tests.docs.not_run import NOT_RUN
from tests.plugin.project import ROOT

DOCS = ROOT / "docs"
# With DOCS_WRITE=1, the tests update the pages instead of only reporting differences.
WRITES = os.environ.get("DOCS_WRITE") == "1"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(
    r"# ([\w./-]*(?:\.(?:py|ini|toml|feature|coveragerc)|compose\.yml))(, at its end)?\n"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code.

    Attributes:
        language: the language given on the page.
        text: the lines of the block.
        start: the position in the page at which the text begins.
    """

    language: str
    text: str
    start: int

    @property
    def file(self) -> str | None:
        """The file named in the first line, or None if it names no file."""
        match = _FILE.match(self.text)
        return match[1] if match else None

    @property
    def is_added(self) -> bool:
        """Whether the block is appended to its file instead of replacing it."""
        match = _FILE.match(self.text)
        return match is not None and match[2] is not None


@dataclass(frozen=True, slots=True)
class Command:
    """A command that the reader types, and the output that the page shows for it.

    Attributes:
        line: the command.
        answer: the output shown.
        start: the position in the page at which the output begins.
    """

    line: str
    answer: str
    start: int


def pages() -> list[str]:
    """Return the path of every page, relative to `docs` and without the suffix."""
    return [
        path.relative_to(DOCS).with_suffix("").as_posix()
        for path in sorted(DOCS.rglob("*.md"))
        if path.parts[len(DOCS.parts)] != "examples"
    ]


def path_of(page: str) -> Path:
    """Return the path of a page."""
    return DOCS / f"{page}.md"


def blocks(page: str) -> list[Block]:
    """Return the code blocks of a page, in order."""
    text = path_of(page).read_text()
    return [Block(found[1], found[2], found.start(2)) for found in _BLOCK.finditer(text)]


def commands(block: Block) -> list[Command]:
    """Return the commands of a block: its first lines, each with a leading dollar sign.

    The lines that follow are the output of the last command; the other commands print nothing.
    """
    typed = re.match(r"(\$ .*\n)*", block.text)
    assert typed
    lines = [line[2:] for line in typed[0].splitlines()]
    start = block.start + typed.end()
    answers = [""] * (len(lines) - 1) + [block.text[typed.end() :]]
    return [Command(line, answer, start) for line, answer in zip(lines, answers, strict=False)]


def commands_run(page: str) -> list[Command]:
    """Return the commands of a page, in order, without those that `NOT_RUN` lists."""
    listed = NOT_RUN.get(f"docs/{page}.md", {})
    found = [command for block in blocks(page) for command in commands(block)]
    return [command for command in found if command.line not in listed]


def examples(page: str) -> dict[str, str]:
    """Return the final version of every file on a page, by file name."""
    files: dict[str, str] = {}
    for block in blocks(page):
        if block.file:
            before = files[block.file] if block.is_added else ""
            files[block.file] = before + block.text
    return files
