"""Values that must not be seen."""

from __future__ import annotations

import base64
import copy
import pickle
from typing import Any
from urllib.parse import quote

import pytest

from pytest_plan.engine.model.secret import Masker, Secret, reveal


class TestSecret:
    """The wrapper."""

    @pytest.mark.parametrize(
        "show", [repr, str, lambda it: f"{it}", lambda it: f"{it:>20}", lambda it: f"{it!r}",
                 lambda it: str([it]), lambda it: str({"key": it})]
    )  # fmt: skip
    def test_it_is_never_shown(self, show: Any) -> None:
        """In no kind of text."""
        assert "hunter2" not in show(Secret("hunter2"))
        assert "***" in show(Secret("hunter2"))

    def test_it_can_be_revealed(self) -> None:
        """By its method, or with what may be none."""
        assert Secret("hunter2").reveal() == "hunter2"
        assert reveal(Secret(7)) == 7
        assert reveal(7) == 7

    def test_equal_secrets_are_equal(self) -> None:
        """And only to secrets."""
        assert Secret("a") == Secret("a")
        assert Secret("a") != Secret("b")
        assert Secret("a") != "a"
        assert len({Secret("a"), Secret("a")}) == 1

    @pytest.mark.parametrize(
        "twin", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))]
    )
    def test_it_copies_and_pickles(self, twin: Any) -> None:
        """Workers of xdist get it."""
        assert twin(Secret("hunter2")).reveal() == "hunter2"

    def test_it_has_no_attributes_to_look_into(self) -> None:
        """`vars` shows nothing."""
        with pytest.raises(TypeError):
            vars(Secret("hunter2"))


class TestMasker:
    """Secrets inside other text."""

    @pytest.mark.parametrize("value", ["hunter2/ü&", b"hunter2/\xc3\xbc&"])
    def test_it_masks_a_secret_in_each_of_its_forms(self, value: str | bytes) -> None:
        """As it is, URL-quoted, base64."""
        masker = Masker()
        masker.learn(Secret(value))
        raw = value if isinstance(value, bytes) else value.encode()
        forms = [raw.decode(), quote(raw, safe=""), base64.b64encode(raw).decode()]
        assert masker.mask(" ".join(forms)) == "*** *** ***"

    def test_the_longest_is_masked_first(self) -> None:
        """A secret inside another leaves nothing of it."""
        masker = Masker()
        masker.learn(Secret("pass"))
        masker.learn(Secret("password"))
        assert masker.mask("password pass") == "*** ***"

    @pytest.mark.parametrize("value", ["abc", "", b"x", 1234, None, ["hunter2"]])
    def test_short_values_and_other_types_are_not_masked(self, value: Any) -> None:
        """They would turn ordinary output into asterisks."""
        masker = Masker()
        masker.learn(Secret(value))
        assert masker.mask("abc 1234 x hunter2") == "abc 1234 x hunter2"

    def test_what_is_no_secret_is_not_masked(self) -> None:
        """Any value may be given to it."""
        masker = Masker()
        masker.learn("hunter2")
        assert masker.mask("hunter2") == "hunter2"

    def test_a_secret_of_several_lines_is_masked_as_a_whole(self) -> None:
        """Such as a private key."""
        masker = Masker()
        masker.learn(Secret("first\nsecond"))
        assert masker.mask("a first\nsecond b") == "a *** b"
