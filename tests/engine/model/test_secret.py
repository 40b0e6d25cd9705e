"""Secrets, and masking them in output."""

from __future__ import annotations

import base64
import copy
import html
import json
import pickle
import shlex
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from pytest_plan.engine.model.secret import (
    MASK,
    Masker,
    Secret,
    current_masker,
    reveal,
    secret_texts,
)

TEXTS = ["hunter2", "it's a/b c\\d?>~", 'say "ho" & <go>', "pässwörd \N{SNOWMAN}\n\tlong line"]


def _raw(text: str) -> bytes:
    return text.encode()


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "repr": repr,
    "ascii": ascii,
    "repr of bytes": lambda text: repr(_raw(text)).removeprefix("b"),
    "JSON": json.dumps,
    "JSON in Unicode": lambda text: json.dumps(text, ensure_ascii=False),
    "shell": shlex.quote,
    "shell in double quotes": lambda text: (
        '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    ),
    "URL": lambda text: quote(text, safe=""),
    "URL path": quote,
    "URL form": quote_plus,
    "URL in lower case": lambda text: quote(text, safe="").replace("%C", "%c").replace("%A", "%a"),
    "hex": lambda text: _raw(text).hex(),
    "HEX": lambda text: _raw(text).hex().upper(),
    "HTML": html.escape,
    "XML": lambda text: html.escape(text, quote=False),
}


@dataclass
class Box:
    """A dataclass."""

    content: Any


def range_of_lists(value: object) -> list[object]:
    """Return many lists, of which the last has the value."""
    return [*([number] for number in range(10_000)), [value]]


class TestSecret:
    """The class that hides a value."""

    @pytest.mark.parametrize(
        "show", [repr, str, lambda it: f"{it}", lambda it: f"{it:>20}", lambda it: f"{it!r}",
                 lambda it: str([it]), lambda it: str({"key": it})]
    )  # fmt: skip
    def test_it_is_never_shown(self, show: Any) -> None:
        """`str`, `repr`, formatting and containers show `***` instead of the value."""
        assert "hunter2" not in show(Secret("hunter2"))
        assert "***" in show(Secret("hunter2"))

    def test_it_can_be_revealed(self) -> None:
        """The method returns the value; the function also accepts values that are not secret."""
        assert Secret("hunter2").reveal() == "hunter2"
        assert reveal(Secret(7)) == 7
        assert reveal(7) == 7

    def test_equal_secrets_are_equal(self) -> None:
        """A secret is equal to another secret with the same value, and to nothing else."""
        assert Secret("aaaa") == Secret("aaaa")
        assert Secret("aaaa") != Secret("bbbb")
        assert Secret("aaaa") != "aaaa"
        assert len({Secret("aaaa"), Secret("aaaa")}) == 1

    @pytest.mark.parametrize("value", ["a", "abc", b"abc"])
    def test_text_that_cannot_be_masked_is_refused(self, value: Any) -> None:
        """Masking it would turn ordinary output into asterisks; the message does not show it."""
        with pytest.raises(ValueError, match="cannot be masked") as info:
            Secret(value)
        assert repr(value) not in str(info.value)

    @pytest.mark.parametrize("value", ["", b"", None, 1, [], {"key": "a"}])
    def test_a_value_without_such_text_is_allowed(self, value: Any) -> None:
        """Nothing is masked for an empty text and for None, as for a variable that is not set."""
        masker = Masker()
        masker.learn(Secret(value))
        assert masker.forms == ()
        assert Secret(value).reveal() == value

    @pytest.mark.parametrize(
        "twin", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))]
    )
    def test_it_copies_and_pickles(self, twin: Any) -> None:
        """A copy or pickle has the value, because xdist workers need it."""
        assert twin(Secret("hunter2")).reveal() == "hunter2"

    def test_it_has_no_instance_dictionary(self) -> None:
        """`vars` cannot show the value."""
        with pytest.raises(TypeError):
            vars(Secret("hunter2"))


class TestMasker:
    """Masking of secrets inside other text."""

    @pytest.mark.parametrize("show", SPELLINGS.values(), ids=SPELLINGS)
    @pytest.mark.parametrize("text", TEXTS)
    def test_it_masks_a_secret_in_each_spelling(
        self, show: Callable[[str], str], text: str
    ) -> None:
        """No spelling is shown, whatever is around it."""
        masker = Masker()
        masker.learn(Secret(text))
        for around in ("", "x", "'", '"', "'\""):
            shown = show(around + text + around)
            masked = masker.mask(f"a line: {shown}, and more")
            assert show(text).strip("'\"") not in masked
            assert MASK in masked

    @pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
    @pytest.mark.parametrize("user", ["", "u:", "us:", "use:"])
    @pytest.mark.parametrize("text", TEXTS)
    def test_it_masks_base64_whatever_is_around_it(
        self, encode: Callable[[bytes], bytes], user: str, text: str
    ) -> None:
        """Basic auth encodes the user, too. All but six bits at each end is masked."""
        masker = Masker()
        masker.learn(Secret(text))
        for rest in ("", "x", "xy"):
            shown = encode(_raw(user + text + rest)).decode()
            left = masker.mask(shown).replace(MASK, "")
            assert len(left) <= 4 * ((len(user) + 2) // 3 + (len(rest) + 2) // 3) + 2

    def test_overlapping_secrets_are_masked_as_one(self) -> None:
        """No part of any of them is left, nor of one that overlaps itself."""
        masker = Masker()
        for secret in ("pass", "password", "word-of-mine", "aaaa"):
            masker.learn(Secret(secret))
        assert masker.mask("password pass password-of-mine") == "*** *** ***"
        assert masker.mask("baaaaaab") == "b***b"

    @pytest.mark.parametrize("value", ["hunter2", b"hunter2"])
    @pytest.mark.parametrize(
        "contain",
        [
            lambda it: it, lambda it: {"key": [it]}, lambda it: {it: 1}, lambda it: (it,),
            lambda it: ["a", 1, it], lambda it: {"a": 1, "b": it},
            lambda it: {it}, lambda it: frozenset({it}), lambda it: deque([it]), Box,
            lambda it: Box([{"a": Box(it)}]), lambda it: SimpleNamespace(key=it),
            lambda it: ValueError(it), lambda it: [[[[[it]]]]], lambda it: range_of_lists(it),
        ],
    )  # fmt: skip
    def test_a_secret_inside_a_value_is_found(self, contain: Any, value: Any) -> None:
        """It may be in a container or an object, however deep; and a secret may be a container."""
        for hide in (lambda it: contain(Secret(it)), lambda it: Secret(contain(it))):
            masker = Masker()
            masker.learn(hide(value))
            assert masker.mask("a hunter2") == "a ***"

    def test_a_value_that_contains_itself_is_no_problem(self) -> None:
        """Each container is searched once."""
        value: list[Any] = [Secret("hunter2")]
        value += [value, {"self": value}]
        assert secret_texts(value) == ["hunter2"]

    def test_a_number_is_masked(self) -> None:
        """A PIN is a secret, too."""
        masker = Masker()
        masker.learn(Secret(271828))
        assert masker.mask("pin=271828") == "pin=***"

    def test_a_shortened_secret_is_masked(self) -> None:
        """Programs such as pytest show only the ends of long values."""
        masker = Masker()
        masker.learn(Secret("abcdefghijklmnopqrstuvwxyz"))
        assert masker.mask("E 'abcdefg...tuvwxyz' != 'abc...'") == "E '***...***' != 'abc...'"

    def test_a_plain_value_is_not_masked(self) -> None:
        """`learn` accepts any value and ignores those that are not secrets."""
        masker = Masker()
        masker.learn("hunter2")
        assert masker.mask("hunter2") == "hunter2"

    def test_a_multi_line_secret_is_masked_line_by_line(self) -> None:
        """Its lines are masked alone, too, but not those that every key has."""
        masker = Masker()
        key = "-----BEGIN PRIVATE KEY-----\nMIIEvAIB\nab\n c3/+ \n-----END PRIVATE KEY-----\n"
        masker.learn(Secret(key))
        assert masker.mask(f"a {key}b") == "a ***b"
        assert masker.mask("> MIIEvAIB\n> ab\n> c3/+;") == "> ***\n> ab\n> ***;"
        assert masker.mask("c3%2F%2B") == "***"
        assert "BEGIN PRIVATE KEY" in masker.mask("-----BEGIN PRIVATE KEY-----")

    def test_the_beginning_of_a_secret_is_found(self) -> None:
        """The end of an unfinished text may be a part of a secret."""
        masker = Masker()
        masker.learn(Secret("hunter2"))
        assert masker.begun("say hunt") == 4
        assert masker.begun("say hun") == 7


class TestKnown:
    """What makes a secret known without the State."""

    def test_a_secret_that_a_hook_creates_or_reveals_is_known(self) -> None:
        """The masker of the running hook is found by a context variable."""
        masker, other = Masker(), Masker()
        old = Secret("hunter1")
        token = current_masker.set(masker)
        try:
            Secret(["hunter2"])
            old.reveal()
        finally:
            current_masker.reset(token)
        Secret("hunter3")
        assert masker.mask("hunter1 hunter2 hunter3") == "*** *** hunter3"
        assert other.forms == ()


class TestBetween:
    """A secret that is masked only between two other texts."""

    @pytest.fixture
    def masker(self) -> Masker:
        """A masker that knows the password of one user."""
        masker = Masker()
        masker.learn_between("shop:", "pw", "@")
        return masker

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("postgresql://shop:pw@host/shop", "postgresql://shop:***@host/shop"),
            ("shop:pw@a shop:pw@b", "shop:***@a shop:***@b"),
            ("pw shop:pw shop@pw", "pw shop:pw shop@pw"),
            ("c2hvcDpwd0A=", "***"),
        ],
    )
    def test_only_there_it_is_masked(self, masker: Masker, text: str, shown: str) -> None:
        """The texts around it stay visible, but not in an encoding."""
        assert masker.mask(text) == shown

    @pytest.mark.parametrize("most", range(len("a shop:pw@b") + 1))
    def test_no_end_of_a_part_uncovers_it(self, masker: Masker, most: int) -> None:
        """What is masked in two parts is masked as it is in one."""
        text = "a shop:pw@b"
        first, end = masker.mask_some(text, most)
        assert first + masker.mask(text[end:]) == "a shop:***@b"

    @pytest.mark.parametrize("length", range(len("shop:pw@")))
    def test_its_beginning_is_held_back(self, masker: Masker, length: int) -> None:
        """At the end of a text it may become the secret, if enough of it is there."""
        text = "x " + "shop:pw@"[:length]
        assert masker.begun(text) == (2 if length >= 4 else len(text))

    def test_another_secret_may_overlap_it(self, masker: Masker) -> None:
        """Both are masked."""
        masker.learn_text(["shop"])
        assert masker.mask("shop:pw@host") == "***:***@host"
