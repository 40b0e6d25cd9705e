"""Aligns the columns of what a command shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table; there is none if it has only a head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if len(rows) > 1 else ():
        yield "  ".join(
            f"{text:<{width}}" for text, width in zip(row, widths, strict=True)
        ).rstrip()
