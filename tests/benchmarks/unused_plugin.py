"""What the plugin costs a run of pytest without steps: whole processes, with it and without."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measure import Row, interleave, seconds

ROOT = Path(__file__).parents[2]
START_REPEATS = 41
TESTS = 5_000
TESTS_REPEATS = 15
MILLI = 1e3
TARGET_MILLISECONDS = 15.0
TARGET_RATIO = 1.02

_ONE_TEST = "def test_nothing(): pass\n"
_MANY_TESTS = f"""
import pytest

@pytest.mark.parametrize("number", range({TESTS}))
def test_nothing(number): pass
"""


def rows() -> Iterator[Row]:
    """Measure, and return the lines of the table."""
    with_plugin, without = _compare(_ONE_TEST, START_REPEATS)
    more = [(a - b) * MILLI for a, b in zip(with_plugin, without, strict=True)]
    yield Row("plugin loaded, no step: start-up, more", "ms", more, TARGET_MILLISECONDS)
    yield Row("beside it: the whole run without", "ms", [one * MILLI for one in without])
    with_plugin, without = _compare(_MANY_TESTS, TESTS_REPEATS)
    ratios = [a / b for a, b in zip(with_plugin, without, strict=True)]
    yield Row(f"plugin loaded, no step: {TESTS:,} trivial tests", "x", ratios, TARGET_RATIO)
    yield Row("beside it: the whole run without", "ms", [one * MILLI for one in without])


def _compare(source: str, repeats: int) -> list[list[float]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_benchmark.py").write_text(source)
        return interleave(
            [lambda: _pytest(folder, "-p", "pytest_plan"), lambda: _pytest(folder)], repeats
        )


def _pytest(folder: Path, *options: str) -> float:
    """Return the seconds of one run, which has no plugin but those of pytest and `options`."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        # Installed packages have their byte code written, so ours may write it, too.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": str(ROOT),
    }
    argv = [sys.executable, "-m", "pytest", "-q", *options]

    def run() -> None:
        subprocess.run(argv, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)

    return seconds(run)
