"""Runs the commands of a page, and compares their output with what the page shows."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.xdist.cluster import wait_until

# The reader's interpreter is called python; that of an environment may be called python3.
PYTHON = str(Path(sys.executable).with_name("python"))
LONGEST = 60.0  # maximum seconds that one command may take
_CTRL_C = "^C\n"
_LATE = "--plan-logs"  # prints what programs have written, which takes a moment to arrive
_WRITING = 5.0  # maximum seconds that it may take
# Text that differs between machines or runs. The lines matched by _HEADER contain nothing else; a
# terminal shows a line about a step that has started only with `-v`.
_VARIES = (
    (re.compile(r"\b(\d+h )?(\d+m )?\d+(\.\d+)?m?s\b"), "TIME"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "CLOCK"),
    (re.compile(r"(?<=127\.0\.0\.1)(:| )\d+"), ":PORT"),
    (re.compile(r"(?<= )\d{5}(?= )"), "PORT"),
    (re.compile(r"\bplan-[a-z0-9_]{8,12}\b"), "plan-RANDOM"),
    (re.compile(r"\bpid \d+"), "pid PID"),
    (re.compile(r"\S+ \(process \d+\)"), "HOST (process PID)"),
    (re.compile(r"\bgw\d+"), "gwN"),
    (re.compile(r"\bPython 3\.[\d.]+"), "Python VERSION"),
    (re.compile(r"\b0x[0-9a-f]+"), "0xADDRESS"),
    (re.compile(r"\b[0-9a-f]{8}\b"), "RUN"),
    (re.compile(r"([=_!-])\1{2,}"), r"\1"),
    (re.compile(r" {2,}"), " "),
)
_HEADER = re.compile(
    r"(platform |rootdir: |configfile: |plugins: |cachedir: |django: |asyncio: |"
    r"created: |bringing up nodes|\d workers \[|_+ coverage: |plan: \S+ +started$).*\n"
)


class Shell:
    """A folder in which the commands `pytest` and `python` use the tested code.

    Args:
        folder: the working directory of commands.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plugins = "pytest_plan,xdist.plugin,pytest_timeout"
        self._programs = Path(tempfile.mkdtemp())
        for name, arguments in (("pytest", " -m pytest"), ("python", "")):
            program = self._programs / name
            program.write_text(f'#!/bin/sh\nexec "{PYTHON}"{arguments} "$@"\n')
            program.chmod(0o755)

    def type(self, line: str, until_ctrl_c: str | None = None) -> str:
        """Run a command until it exits, and return its output.

        Args:
            line: the command, in bash syntax.
            until_ctrl_c: press Ctrl-C once the command has printed this; None means never.
        """
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                ["bash", "-c", line], cwd=self.folder, env=self._environment(),
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            try:
                if until_ctrl_c is not None:
                    wait_until(lambda: matches(until_ctrl_c + "...\n", self._text(output.fileno())))
                    _await_rest(process.pid)  # the test that pytest has announced has begun
                    os.killpg(process.pid, signal.SIGINT)
                process.wait(LONGEST)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGTERM)  # SIGKILL would leave its children
                    process.wait(LONGEST)
            return self._text(output.fileno())

    def _text(self, output: int) -> str:
        text = os.pread(output, 10_000_000, 0).decode()
        text = text.replace(str(self.folder), "/home/you/tutorial")
        text = re.sub(r"/\S+/(?=plan-[a-z0-9_]{8,12}/)", "/tmp/", text)
        return text.replace(PYTHON, "/home/you/tutorial/.venv/bin/python")

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "COLUMNS": "80",
            "PATH": os.pathsep.join([str(self._programs), os.environ["PATH"]]),
            "PYTEST_PLUGINS": self.plugins,
            "PYTHONUNBUFFERED": "1",  # so that both streams are in order, as in a terminal
        }


def _await_rest(pid: int) -> None:
    """Wait until a program and its children use no processor any more."""
    used = -1.0
    while (now := _processor_seconds(pid)) != used:
        used = now
        time.sleep(0.1)


def _processor_seconds(pid: int) -> float:
    process, seconds = psutil.Process(pid), 0.0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            seconds += times.user + times.system
    return seconds


def answer(shell: Shell, line: str, shown: str) -> str:
    """Run a command and return its output; a line `^C` in `shown` presses Ctrl-C at that point."""
    before, ctrl_c, _ = shown.partition(_CTRL_C)
    if not ctrl_c:
        return _settled(shell, line, shown) if _LATE in line else shell.type(line)
    said = shell.type(line, before)
    head = _head(said, before)
    return said[:head] + ctrl_c + said[head:]


def _settled(shell: Shell, line: str, shown: str) -> str:
    """Run a command that only prints until it prints what is shown; return its last output."""
    deadline = time.monotonic() + _WRITING
    while not matches(shown, said := shell.type(line)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return said


def matches(shown: str, said: str) -> bool:
    """Return whether a page shows this output; a line `...` stands for any number of lines."""
    lines = _plain(shown)
    pattern = "".join("(?:.*\n)*?" if line == "...\n" else re.escape(line) for line in lines)
    return re.fullmatch(pattern, "".join(_plain(said))) is not None


def without_header(text: str) -> str:
    """Return the output without the lines about versions and folders."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not _HEADER.match(line))


def _head(said: str, before: str) -> int:
    """Return the length of the part of `said` that `before` shows."""
    lines = said.splitlines(keepends=True)
    ends = (sum(map(len, lines[:count])) for count in range(len(lines) + 1))
    return next((end for end in ends if matches(before, said[:end])), 0)


def _plain(text: str) -> list[str]:
    lines = (line.rstrip() for line in without_header(text).splitlines())
    kept = [line for line in lines if line]
    for pattern, stand_in in _VARIES:
        kept = [pattern.sub(stand_in, line) for line in kept]
    return [f"{line}\n" for line in kept]
