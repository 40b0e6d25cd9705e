"""A project in a temporary folder, whose whole runs are timed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]

NOTES = """
from pathlib import Path

FILE = Path(__file__).with_name("history.txt")


def note(text):
    with FILE.open("a") as file:
        print(text, file=file)
"""


class Suite:
    """A project whose runs load no plugin but those that are named.

    Args:
        files: their names and sources; `notes.py` comes with every project.
        plugins: what `-p` loads.
    """

    def __init__(self, files: Mapping[str, str], *plugins: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.path = Path(self._folder.name)
        self._plugins = [word for plugin in plugins for word in ("-p", plugin)]
        for name, source in {"pytest.ini": "[pytest]\n", "notes.py": NOTES, **files}.items():
            (self.path / name).write_text(textwrap.dedent(source))

    def run(self, *options: str) -> float:
        """Run the tests, which must pass; return the seconds of the whole process."""
        self._history.unlink(missing_ok=True)
        begun = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *self._plugins, *options],
            cwd=self.path,
            env=self._variables(),
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - begun
        if ended.returncode:
            raise RuntimeError(ended.stdout + ended.stderr)
        return seconds

    def history(self) -> list[str]:
        """Return what steps and tests of the last run have written."""
        return self._history.read_text().splitlines() if self._history.exists() else []

    def close(self) -> None:
        """Remove the project."""
        self._folder.cleanup()

    @property
    def _history(self) -> Path:
        return self.path / "history.txt"

    def _variables(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        return {
            **kept,
            # Installed packages have their byte code written, so ours may write it, too.
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(self.path)]),
        }
