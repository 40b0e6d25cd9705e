"""Pages of the documentation as readers use them: files to write and commands to type."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tests.plugin.project import ROOT

DOCS = ROOT / "docs"
# With DOCS_WRITE=1 the actual output of commands is written to the page if it differs.
WRITES = os.environ.get("DOCS_WRITE") == "1"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w./-]+\.(?:py|ini|toml))(, at its end)?\n")
_FOREIGN = ("pip ", "python3 -m venv ", ". ", "cd ", "git ", "mkdir ")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code.

    Attributes:
        language: the language that the page gives.
        text: the lines of the block.
        start: the position in the page where the text begins.
    """

    language: str
    text: str
    start: int

    @property
    def file(self) -> str | None:
        """The file that the first line names, or None."""
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
        answer: the output that the page shows.
        start: the position in the page where the output begins.
    """

    line: str
    answer: str
    start: int

    @property
    def is_ours(self) -> bool:
        """Whether the test can run the command: it does not install or change the folder."""
        return not self.line.startswith(_FOREIGN)


def pages() -> list[str]:
    """Return the paths of all pages relative to `docs`, without their suffix."""
    return [
        path.relative_to(DOCS).with_suffix("").as_posix()
        for path in sorted(DOCS.rglob("*.md"))
        if path.parts[len(DOCS.parts)] != "examples"
    ]


def path_of(page: str) -> Path:
    """Return the path of a page's file."""
    return DOCS / f"{page}.md"


def blocks(page: str) -> list[Block]:
    """Return the code blocks of a page in order."""
    text = path_of(page).read_text()
    return [Block(found[1], found[2], found.start(2)) for found in _BLOCK.finditer(text)]


def commands(block: Block) -> list[Command]:
    """Return the commands of a block: its first lines, as long as they begin with a dollar sign.

    The rest is the output of the last command. The others have no output.
    """
    typed = re.match(r"(\$ .*\n)*", block.text)
    assert typed
    lines = [line[2:] for line in typed[0].splitlines()]
    start = block.start + typed.end()
    answers = [""] * (len(lines) - 1) + [block.text[typed.end() :]]
    return [Command(line, answer, start) for line, answer in zip(lines, answers, strict=False)]


def examples(page: str) -> dict[str, str]:
    """Return the final content of every file on a page, by file name."""
    files: dict[str, str] = {}
    for block in blocks(page):
        if block.file:
            before = files[block.file] if block.is_added else ""
            files[block.file] = before + block.text
    return files
