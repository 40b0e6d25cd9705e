"""Converts text to what the encoding of the terminal can represent."""

from __future__ import annotations

import sys


def is_printable(text: str) -> bool:
    """Return whether the terminal can show every character of `text`."""
    return printable(text) == text


def printable(text: str) -> str:
    """Return `text` with a backslash escape for each character that the terminal cannot show.

    pytest would escape the whole text instead, including its line breaks and backslashes.
    """
    encoding = getattr(sys.__stdout__, "encoding", None) or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)
