"""A project in a temporary folder, for measuring runs of pytest."""

from __future__ import annotations

import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.benchmarks import instructions
from tests.benchmarks.instructions import ROOT

_NOTES = """
from pathlib import Path

FILE = Path(__file__).with_name("history.txt")


def note(text):
    with FILE.open("a") as file:
        print(text, file=file)
"""
# pytest searches all installed packages for the name after `-p`. This plugin costs only that.
EMPTY_PLUGIN = "nothing"
_FILES = {"pytest.ini": "[pytest]\n", "notes.py": _NOTES, f"{EMPTY_PLUGIN}.py": ""}


class Suite:
    """A project whose runs load only the given plugins; a context manager that removes it.

    Args:
        files: the names and sources of the files; `notes.py` and the empty plugin are added.
        plugins: the plugins to load with `-p`.

    Attributes:
        path: the folder of the project.
    """

    def __init__(self, files: Mapping[str, str], *plugins: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.path = Path(self._folder.name)
        self._plugins = plugins
        for name, source in {**_FILES, **files}.items():
            (self.path / name).write_text(textwrap.dedent(source))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._folder.cleanup()

    def run(self, *options: str, root: Path = ROOT) -> float:
        """Run the tests with the `pytest_plan` of `root`; return how many seconds this took.

        Raises:
            FailedError: a test failed.
        """
        (self.path / "history.txt").unlink(missing_ok=True)
        variables = instructions.variables(root, self.path)
        begun = time.monotonic()
        instructions.run([sys.executable, *self.arguments(*options)], self.path, variables)
        return time.monotonic() - begun

    def count(self, *options: str, root: Path = ROOT) -> int:
        """Return the number of instructions of a run, excluding its child processes."""
        variables = instructions.variables(root, self.path)
        return instructions.count(self.arguments(*options), self.path, variables).instructions

    def history(self) -> list[str]:
        """Return the lines that the steps and tests of the last run noted."""
        file = self.path / "history.txt"
        return file.read_text().splitlines() if file.exists() else []

    def arguments(self, *options: str) -> list[str]:
        """Return the arguments of the interpreter for a run with these options."""
        loaded = [word for plugin in self._plugins for word in ("-p", plugin)]
        return ["-m", "pytest", "-q", *loaded, *options]
