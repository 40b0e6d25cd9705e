"""Records a program on a terminal as an SVG file that plays what the terminal showed."""

from __future__ import annotations

import contextlib
import fcntl
import html
import os
import re
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

COLUMNS, ROWS = 116, 36
_APART = 0.12  # seconds between two frames at least
_REST = 6.0  # seconds for which the last frame stays
_CHARACTER, _LINE = 8.0, 17.0  # pixels
_PARTS = re.compile(r"\x1b\[([\d;]*)([A-Za-z])|\x1b\[\?\d+[hl]|(\r)|(\n)|([^\x1b\r\n]+)")
_COLORS = {"31": "r", "32": "g", "33": "y", "34": "b", "36": "c"}
_STYLE = (
    ".r{fill:#ff7b78}.g{fill:#57c274}.y{fill:#e0ac4a}.b{fill:#7db4ff}.c{fill:#6ad2d2}"
    ".B{font-weight:bold}text{white-space:pre;font:13px ui-monospace,Menlo,Consolas,'DejaVu Sans"
    " Mono',monospace;fill:#e4e7eb}g{visibility:hidden}g.last{visibility:visible}"
    "@media(prefers-reduced-motion:reduce){g{animation:none!important}}"
)


class Frame(NamedTuple):
    """What the terminal showed from a time on, in seconds; a line is pairs of style and text."""

    at: float
    lines: tuple[tuple[tuple[str, str], ...], ...]


class _Screen:
    """A terminal that knows what pytest uses: colors, the cursor up, erasing."""

    def __init__(self) -> None:
        self._lines: list[list[tuple[str, str]]] = [[]]
        self._row = self._column = 0
        self._style = ""

    def feed(self, text: str) -> None:
        for numbers, command, carriage_return, new_line, plain in _PARTS.findall(text):
            if plain:
                self._write(plain)
            elif carriage_return:
                self._column = 0
            elif new_line:
                self._row += 1
                self._lines += [[] for _ in range(self._row + 1 - len(self._lines))]
            elif command == "A":
                self._row = max(0, self._row - int(numbers or 1))
            elif command in ("J", "K"):
                del self._lines[self._row][self._column :]
                if command == "J":
                    del self._lines[self._row + 1 :]
            elif command == "m":
                self._paint(numbers)

    def _paint(self, numbers: str) -> None:
        codes = numbers.split(";")
        if "0" in codes or codes == [""]:
            self._style = ""
        found = [_COLORS[code] for code in codes if code in _COLORS]
        bold = ["B"] if "1" in codes else []
        self._style = " ".join(filter(None, [self._style, *found, *bold]))

    def _write(self, text: str) -> None:
        line = self._lines[self._row]
        line += [("", " ")] * (self._column - len(line))
        line[self._column : self._column + len(text)] = [(self._style, one) for one in text]
        self._column += len(text)

    def shown(self) -> tuple[tuple[tuple[str, str], ...], ...]:
        """Return the lines that are visible, each as runs of one style."""
        rows = [row for line in self._lines for row in _wrapped(line)]
        return tuple(tuple(_runs(line)) for line in rows[-ROWS:])


def _wrapped(line: list[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    for begin in range(0, max(1, len(line)), COLUMNS):
        yield line[begin : begin + COLUMNS]


def _runs(line: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    style, text = "", ""
    for own, character in line:
        if own != style and text:
            yield style, text
            text = ""
        style = own
        text += character
    if text.strip():
        yield style, text


def record(
    command: str, argv: Sequence[str], folder: Path, replaced: Mapping[str, str]
) -> list[Frame]:
    """Run a program on a terminal and return the frames.

    Args:
        command: the command as the first line shows it.
        argv: the program and its arguments.
        folder: the working directory.
        replaced: texts of the machine, and what is shown instead.
    """
    screen = _Screen()
    screen.feed(f"$ {command}\r\n")
    frames = [Frame(0.0, screen.shown())]
    began = time.monotonic()
    for data in _output(argv, folder):
        text = data
        for old, new in replaced.items():
            text = text.replace(old, new)
        screen.feed(text)
        now = time.monotonic() - began
        if now - frames[-1].at < _APART:
            frames[-1] = frames[-1]._replace(lines=screen.shown())
        else:
            frames.append(Frame(round(now, 2), screen.shown()))
    return frames


def _output(argv: Sequence[str], folder: Path) -> Iterator[str]:
    """Yield what the program writes; nothing is cut within a line of a frame."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    names = os.environ.keys() - {"COLUMNS", "LINES", "CI", "NO_COLOR", "PYTEST_ADDOPTS"}
    variables = {name: os.environ[name] for name in names} | {"TERM": "xterm-256color"}
    with subprocess.Popen(
        argv, cwd=folder, env=variables, stdin=theirs, stdout=theirs, stderr=theirs
    ):
        os.close(theirs)
        rest = b""
        with contextlib.suppress(OSError):  # the program has gone
            while data := os.read(ours, 65536):
                rest += data
                whole = re.match(rb"(?s)(.*[\n\r]|.*[^\x1b\d\[;](?=$))", rest)
                if whole is not None:
                    yield whole.group().decode(errors="replace")
                    rest = rest[whole.end() :]
    os.close(ours)


def svg(frames: Sequence[Frame]) -> str:
    """Return the frames as an animation; without motion, the last one is shown.

    A line that stays the same for several frames is in the file once.
    """
    total = frames[-1].at + _REST
    width, height = COLUMNS * _CHARACTER + 24, ROWS * _LINE + 24
    parts, rules = [], []
    for number, (row, line, begin, end) in enumerate(_spans(frames, total)):
        is_last = end == total
        if begin > 0 or not is_last:
            rules.append(_rule(number, begin / total * 100, end / total * 100))
            moves = f' style="animation:k{number} {total:g}s step-end infinite"'
        else:
            moves = ""
        spans = "".join(
            f'<tspan class="{style}">{html.escape(text)}</tspan>' if style else html.escape(text)
            for style, text in line
        )
        last = ' class="last"' if is_last else ""
        place = f'x="12" y="{24 + row * _LINE:g}"'
        parts.append(f"<g{last}{moves}><text {place}>{spans}</text></g>\n")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        'aria-label="A run of pytest with a plan, in a terminal">\n'
        f"<style>{_STYLE}\n{''.join(rules)}</style>\n"
        f'<rect width="{width:g}" height="{height:g}" rx="8" fill="#15181d"/>\n'
        f"{''.join(parts)}</svg>\n"
    )


def _rule(number: int, begin: float, end: float) -> str:
    hidden, shown = "{visibility:hidden}", "{visibility:visible}"
    before = f"0%{hidden}" if begin > 0 else ""
    after = f"{end:.2f}%{hidden}" if end < 100 else f"100%{shown}"
    return f"@keyframes k{number}{{{before}{begin:.2f}%{shown}{after}}}\n"


def _spans(
    frames: Sequence[Frame], total: float
) -> Iterator[tuple[int, tuple[tuple[str, str], ...], float, float]]:
    for row in range(ROWS):
        lines = [frame.lines[row] if row < len(frame.lines) else () for frame in frames]
        begin = 0
        for index in range(1, len(frames) + 1):
            if index < len(frames) and lines[index] == lines[begin]:
                continue
            end = frames[index].at if index < len(frames) else total
            if lines[begin]:
                yield row, lines[begin], frames[begin].at, end
            begin = index
