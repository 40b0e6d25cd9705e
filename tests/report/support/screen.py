"""A program on a terminal, and what the terminal shows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

_PATIENCE = 30.0  # seconds without output until a test has failed
_PARTS = re.compile(r"\x1b\[(\d*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


class Screen:
    """The lines that a terminal has received; one that becomes narrower wraps them again.

    Args:
        columns: the width of the terminal.

    Attributes:
        lines: all lines, with those that have scrolled out at the top.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines = [""]
        self._line = self._column = 0

    def feed(self, text: str) -> None:
        """Receive output, in which no escape sequence is cut."""
        for number, command, carriage_return, new_line, plain in _PARTS.findall(text):
            if plain:
                self._write(plain)
            elif carriage_return:
                self._column = 0
            elif new_line:
                self._line += 1
                self.lines += [""] * (self._line + 1 - len(self.lines))
            elif command == "A":
                self._go_up(int(number or 1))
            elif command == "K":
                self.lines[self._line] = self.lines[self._line][: self._column]
            elif command == "J":
                self.lines[self._line] = self.lines[self._line][: self._column]
                del self.lines[self._line + 1 :]

    def _write(self, text: str) -> None:
        old = self.lines[self._line].ljust(self._column)
        self.lines[self._line] = old[: self._column] + text + old[self._column + len(text) :]
        self._column += len(text)

    def _go_up(self, rows: int) -> None:
        while rows > 0:
            self._line -= 1
            rows -= max(1, -(-len(self.lines[self._line]) // self.columns))
        assert rows == 0, "the cursor is in the middle of a line"
        assert self._line >= 0


class Terminal:
    """A run of pytest on a terminal.

    Args:
        folder: the working directory.
        args: the arguments of pytest.
        columns: the width of the terminal.
        rows: its height.
    """

    def __init__(self, folder: Path, *args: str, columns: int, rows: int) -> None:
        self.screen = Screen(columns)
        self._master, other = os.openpty()
        self.resize(columns, rows)
        command = [sys.executable, "-m", "pytest", "-p", "pytest_plan", *args]
        names = os.environ.keys() - {"COLUMNS", "LINES", "CI"}
        env = {name: os.environ[name] for name in names} | {"TERM": "xterm"}
        self._process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=other, stdout=other, stderr=other
        )
        os.close(other)
        self._rest = ""

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size."""
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
        self.screen.columns = columns

    def read_until(self, condition: Callable[[list[str]], object]) -> list[str]:
        """Read output until the lines of the terminal meet a condition; return them."""
        for _ in self._outputs():
            if condition(self.screen.lines):
                return list(self.screen.lines)
        raise AssertionError("\n".join(self.screen.lines))

    def read_all(self) -> tuple[int, list[str]]:
        """Read output until the run has ended; return its exit status and the lines."""
        for _ in self._outputs():
            pass
        return self._process.wait(), self.screen.lines

    def send_signal(self, number: int) -> None:
        """Send a signal to pytest."""
        self._process.send_signal(number)

    def close(self) -> None:
        """End the run, if it has not ended."""
        if self._process.poll() is None:
            self._process.terminate()
            self.read_all()
        os.close(self._master)

    def _read(self) -> bytes:
        if not select.select([self._master], [], [], _PATIENCE)[0]:
            raise AssertionError("\n".join(["no more output:", *self.screen.lines]))
        return os.read(self._master, 65536)

    def _outputs(self) -> Iterator[None]:
        yield
        with contextlib.suppress(OSError):  # the last writer has gone
            while data := self._read():
                text = self._rest + data.decode(errors="replace")
                whole = re.match(r"(?s).*?(?=(\x1b(\[\d*)?)?$)", text)
                assert whole is not None
                self._rest = text[whole.end() :]
                self.screen.feed(whole.group().replace("\x1b[0m", ""))
                yield
