"""Pages of the documentation as their readers use them: files to write, commands to type."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tests.plugin.project import ROOT

DOCS = ROOT / "docs"
# With DOCS_WRITE=1 what differs from what a page shows is written to the page.
WRITES = os.environ.get("DOCS_WRITE") == "1"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w./-]+\.(?:py|ini|toml))(, at its end)?\n")
_FOREIGN = ("pip ", "python3 -m venv ", ". ", "cd ", "git ", "mkdir ")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code.

    Attributes:
        language: as the page says it.
        text: its lines.
        start: where the text begins in the page.
    """

    language: str
    text: str
    start: int

    @property
    def file(self) -> str | None:
        """The file that its first line names, None when it names none."""
        match = _FILE.match(self.text)
        return match[1] if match else None

    @property
    def is_added(self) -> bool:
        """Whether it is added to its file, and does not replace it."""
        match = _FILE.match(self.text)
        return match is not None and match[2] is not None


@dataclass(frozen=True, slots=True)
class Command:
    """A line that the reader types, and what the page shows as the answer.

    Attributes:
        line: the command.
        answer: what it writes.
        start: where the answer begins in the page.
    """

    line: str
    answer: str
    start: int

    @property
    def is_ours(self) -> bool:
        """Whether the page's test can run it: not what installs, or moves to another folder."""
        return not self.line.startswith(_FOREIGN)


def pages() -> list[str]:
    """Return every page, as its path below `docs` without the suffix."""
    return [
        path.relative_to(DOCS).with_suffix("").as_posix()
        for path in sorted(DOCS.rglob("*.md"))
        if path.parts[len(DOCS.parts)] != "examples"
    ]


def path_of(page: str) -> Path:
    """Return where a page is."""
    return DOCS / f"{page}.md"


def blocks(page: str) -> list[Block]:
    """Return the blocks of code of a page, in their order."""
    text = path_of(page).read_text()
    return [Block(found[1], found[2], found.start(2)) for found in _BLOCK.finditer(text)]


def commands(block: Block) -> list[Command]:
    """Return the commands of a block: its first lines, each with a dollar sign before it.

    What follows is the answer to the last; the others answer nothing.
    """
    typed = re.match(r"(\$ .*\n)*", block.text)
    assert typed
    lines = [line[2:] for line in typed[0].splitlines()]
    start = block.start + typed.end()
    answers = [""] * (len(lines) - 1) + [block.text[typed.end() :]]
    return [Command(line, answer, start) for line, answer in zip(lines, answers, strict=False)]


def examples(page: str) -> dict[str, str]:
    """Return the last version of every file of a page, by the file's name."""
    files: dict[str, str] = {}
    for block in blocks(page):
        if block.file:
            before = files[block.file] if block.is_added else ""
            files[block.file] = before + block.text
    return files
