"""Rows of the tables: a ratio, a count, or the number of runs that kept a time limit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HEADER = ("what", "figure", "target", "met")
OTHER = "this / other"  # the additional column of `--against`


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        what: what was measured.
        figure: the result, or why there is none.
        target: the value that the figure must reach; empty if there is none.
        is_met: whether the figure reaches the target; None if there is no target or no result.
        samples: the numbers behind the figure; durations are in seconds.
        ratio: this checkout's count divided by the other checkout's; None if it was not measured.
    """

    what: str
    figure: str
    target: str = ""
    is_met: bool | None = None
    samples: Sequence[float] = ()
    ratio: float | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the texts of all columns, including the one of `--against`."""
        met = {None: "", True: "yes", False: "no"}[self.is_met]
        ratio = "" if self.ratio is None else f"{self.ratio:.3f} x"
        return self.what, self.figure, self.target, met, ratio


def at_most(
    what: str, unit: str, samples: Sequence[float], target: float | None = None, scale: float = 1
) -> Row:
    """Return a row with the median of `samples`.

    Args:
        what: what was measured.
        unit: the unit of the figure and the target; "x" for a ratio.
        samples: one number for each repetition.
        target: the highest median allowed; None if the row is for comparison only.
        scale: how many of the samples' units make one `unit`.
    """
    median = statistics.median(samples) / scale
    figure = f"{median:,.2f} x" if unit == "x" else f"{_text(median)} {unit}"
    if target is None:
        return Row(what, figure, samples=samples)
    return Row(what, figure, f"at most {_text(target)} {unit}", median <= target, samples)


def within(what: str, seconds: Sequence[float], limit: float) -> Row:
    """Return a row with the number of `seconds` that are at most `limit`; the target is all."""
    kept = sum(sample <= limit for sample in seconds)
    wanted = f"all within {f'{limit:g} s' if limit >= 0.1 else f'{limit * 1000:g} ms'}"
    return Row(what, f"{kept} of {len(seconds)}", wanted, kept == len(seconds), seconds)


def markdown(rows: Iterable[Row], *, has_other: bool) -> str:
    """Return a Markdown table, with the column of `--against` if `has_other` is true."""
    header = (*HEADER, OTHER) if has_other else HEADER
    lines = [header, *(row.cells()[: len(header)] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(_line(line, widths) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join(padded)} |"


def _text(number: float) -> str:
    """Return `number` with three significant digits, or with all digits before the point."""
    digits = 2 if number == 0 else max(0, 2 - math.floor(math.log10(abs(number))))
    text = f"{number:,.{min(digits, 3)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
