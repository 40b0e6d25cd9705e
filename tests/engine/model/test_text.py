"""Text from outside is shown, and obeyed by no terminal, viewer or CI system."""

from __future__ import annotations

import re
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_plan.engine.model.text import printable, visible

DIRECTION = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
PIECES = [
    "::error::", "##vso[", "##[group]", "##teamcity[", "[command]", ":", "#", "[", "\\", "\x1b[31m",
    "\x1b", "\x9b0m", "\r\n", "\r", "\n", "\t", " ", "\u3000", "\x85", "\u2028", "\ud83d", "\0",
]  # fmt: skip
obeyed = re.compile(r"^\s*(::|\[command\])|##(vso|teamcity)?\[", re.MULTILINE | re.IGNORECASE)
texts = st.lists(st.sampled_from(PIECES) | st.characters()).map("".join)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain: text", "plain: text"),
        ("a\tb\nc", "a\tb\nc"),
        ("caf\xe9 \u2192 \U0001f600", "caf\xe9 \u2192 \U0001f600"),
        ("\x1b[1;31mred\x1b[0m \x9b31mred", "red red"),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("one\r\ntwo\rthree\x00", "one\ntwo\\x0dthree\\x00"),
        ("\x85\x9b\x7f", r"\x85\x9b\x7f"),
        ("a\u202eb\u2028", r"a\u202eb\u2028"),
        ("caf\udce9.csv", r"caf\udce9.csv"),
        ("::error file=a.py::x", r":\:error file=a.py::x"),
        ("a\n \t::set-output name=x::y", "a\n \t:\\:set-output name=x::y"),
        ("see a::b and ::c", "see a::b and ::c"),
        ("done ##vso[task.x] ##[group]", r"done #\#vso[task.x] #\#[group]"),
        ("##teamcity[x]", r"#\#teamcity[x]"),
        ("[command]git", r"[\command]git"),
        ("## [1.0] # [x]", "## [1.0] # [x]"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    """Harmless text stays as it is; the rest is shown as escapes or broken by a backslash."""
    assert visible(text) == shown


@given(texts)
def test_nothing_is_left_to_obey(text: str) -> None:
    """The result has no control character, no CI command, and does not change again."""
    shown = visible(text)
    assert not [
        one
        for one in shown
        if unicodedata.category(one) in ("Cc", "Cs", "Zl") and one not in "\t\n"
    ]
    assert not set(DIRECTION) & set(shown)
    assert not obeyed.search(shown)
    assert visible(shown) == shown
    shown.encode("utf-8")


@given(st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters=":#[")))
def test_harmless_text_stays(text: str) -> None:
    """Letters, digits, punctuation and symbols of any language are never changed."""
    assert visible(text) == text


@pytest.mark.parametrize("piece", [" ", ":", "#", "\x1b[", "\x1b[1;", "\r", "["])
def test_long_text_takes_no_longer_than_its_length(piece: str) -> None:
    """A megabyte of one piece takes a moment: no pattern backtracks."""
    began = time.monotonic()
    visible(piece * (1_000_000 // len(piece)))
    assert time.monotonic() - began < 10.0


def test_characters_outside_the_encoding_are_escaped() -> None:
    """Only these characters are escaped, not the line breaks and backslashes around them."""
    assert printable("a\\b\nö \u2192", "cp1252") == "a\\b\nö \\u2192"
    assert printable("ö", "ascii") == r"\xf6"
