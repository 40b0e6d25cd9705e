"""Counts instructions with valgrind's callgrind; the load of the machine does not change them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.table import Row, at_most

ROOT = Path(__file__).parents[2]
THOUSAND, MILLION = 1e3, 1e6
_NAMES = {1: "instructions", THOUSAND: "k instructions", MILLION: "M instructions"}


class Counts(NamedTuple):
    """The counts for one process.

    Attributes:
        instructions: the number of instructions of all its threads, excluding child processes.
        flushes: the number of its calls of `fdatasync`.
    """

    instructions: int
    flushes: int


class FailedError(RuntimeError):
    """The measured program failed. The error's text is the program's output."""


def is_available() -> bool:
    """Return whether valgrind is installed."""
    return shutil.which("valgrind") is not None


def variables(root: Path, *folders: Path) -> dict[str, str]:
    """Return the environment variables of a measured process.

    Args:
        root: the checkout whose `pytest_plan` it imports.
        folders: additional folders to import from.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {
        **kept,
        "PYTHONDONTWRITEBYTECODE": "",  # empty: byte code of installed packages is also written
        "PYTHONHASHSEED": "0",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (root, *folders))),
    }


def count(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Counts:
    """Run Python twice with these arguments, and count during the second run.

    The first run writes the byte code.

    Args:
        arguments: the arguments of the interpreter.
        folder: the working directory.
        environment: the environment variables of the process.

    Raises:
        FailedError: the exit status is not 0.
    """
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "callgrind.out"
        python = [sys.executable, *arguments]
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={file}"]
        for command in (python, [*valgrind, *python]):
            run(command, folder, environment)
        return _read(file.read_text())


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
    """Run a command; raise FailedError if its exit status is not 0."""
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise FailedError(ended.stdout + ended.stderr)


def row(
    what: str,
    measure: Callable[[Path], float],
    other: Path | None,
    *,
    target: float | None = None,
    scale: float = 1,
    unit: str = "",
) -> Row:
    """Return a row for a count or for a ratio of counts.

    Args:
        what: what is counted.
        measure: a function that takes the root of a checkout and returns the count.
        other: the root of the checkout to compare with; None means no comparison. A count that
            fails there is not compared.
        target: the highest figure allowed, in `unit`; None if there is no target.
        scale: 1, THOUSAND or MILLION.
        unit: the unit of the figure; if empty, instructions multiplied by `scale`.
    """
    value = measure(ROOT)
    found = at_most(what, unit or _NAMES[scale], [value], target, scale)
    return found if other is None else replace(found, ratio=_ratio(value, measure, other))


def _ratio(value: float, measure: Callable[[Path], float], other: Path) -> float | None:
    try:
        beside = measure(other)
    except FailedError as error:
        sys.stderr.write(f"not compared: {str(error).strip().splitlines()[-1]}\n")
        return None
    return value / beside if beside else None


def _read(text: str) -> Counts:
    """Return the counts in callgrind's file, which numbers each function at its first use."""
    (total,) = re.findall(r"^totals: (\d+)", text, re.MULTILINE)
    number = re.search(r"^c?fn=(\(\d+\)) fdatasync$", text, re.MULTILINE)
    if number is None:
        return Counts(int(total), 0)
    calls = rf"^cfn={re.escape(number[1])}.*\ncalls=(\d+)"
    return Counts(int(total), sum(map(int, re.findall(calls, text, re.MULTILINE))))
