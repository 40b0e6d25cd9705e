"""Text from outside, made harmless: a terminal, a log viewer or a CI system shows it.

Errors, logs, file names and skip reasons contain what servers, programs and other people wrote.
"""

from __future__ import annotations

import re
import sys

# Compiled at their first use, because some runs import this module and show nothing.
# Colors carry no information that is lost: `\x1b[31m` and the same with the one-byte introducer.
_COLOR = "(?:\x1b\\[|\x9b)[0-9;:]*m"
# Control characters except tab and newline, separators that some viewers treat as the end of a
# line, characters that change the direction of text, and halves of surrogate pairs.
_CONTROL = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]"
# GitHub Actions obeys `::error::` and `[command]` at the start of a line. GitHub, Azure Pipelines
# and TeamCity obey `##[group]`, `##vso[...]` and `##teamcity[...]` anywhere in a line.
_COMMAND = r"(?im)^[^\S\n]*:(?=:)|^[^\S\n]*\[(?=command\])|#(?=#(?:vso|teamcity)?\[)"


def visible(text: str) -> str:
    r"""Return `text` so that displaying it cannot do anything but show it.

    Tabs and newlines stay, and `\r\n` becomes a newline. Color sequences are removed. Every other
    control character, a character that changes the direction of text, and a lone surrogate is
    replaced by its escape, such as `\x1b` or `\u202e`. A backslash is inserted into what a CI
    system would obey: `::error::` becomes `:\:error::`. Applying the function twice changes
    nothing.
    """
    if not _is_plain(text):
        text = re.sub(_CONTROL, _escape, re.sub(_COLOR, "", text.replace("\r\n", "\n")))
    return re.sub(_COMMAND, _broken, text)


def printable(text: str, encoding: str | None = None) -> str:
    """Return `text` with a backslash escape for each character that the terminal cannot show.

    pytest would escape the whole text instead, including its line breaks and backslashes.

    Args:
        text: the text.
        encoding: the encoding of the terminal; None means the encoding of standard output.
    """
    encoding = encoding or getattr(sys.__stdout__, "encoding", None) or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _broken(found: re.Match[str]) -> str:
    return f"{found[0]}\\"
