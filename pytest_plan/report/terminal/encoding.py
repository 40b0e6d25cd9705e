"""What the terminal's encoding can show."""

from __future__ import annotations

import sys


def can_show(text: str) -> bool:
    """Whether every sign of `text` can be written to the terminal."""
    return shown(text) == text


def shown(text: str) -> str:
    """Return `text` with a backslash and a number for each sign that cannot be written.

    pytest would do so with the whole text, its line ends and backslashes included.
    """
    encoding = getattr(sys.__stdout__, "encoding", None) or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)
