"""Secrets, and masking them in output."""

from __future__ import annotations

import base64
import copy
import pickle
from typing import Any
from urllib.parse import quote

import pytest

from pytest_plan.engine.model.secret import Masker, Secret, reveal


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
        assert Secret("a") == Secret("a")
        assert Secret("a") != Secret("b")
        assert Secret("a") != "a"
        assert len({Secret("a"), Secret("a")}) == 1

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

    @pytest.mark.parametrize("value", ["hunter2/ü&", b"hunter2/\xc3\xbc&"])
    def test_it_masks_a_secret_in_each_of_its_forms(self, value: str | bytes) -> None:
        """The value is masked as it is, URL-quoted and base64-encoded."""
        masker = Masker()
        masker.learn(Secret(value))
        raw = value if isinstance(value, bytes) else value.encode()
        forms = [raw.decode(), quote(raw, safe=""), base64.b64encode(raw).decode()]
        assert masker.mask(" ".join(forms)) == "*** *** ***"

    def test_the_longest_secret_is_masked_first(self) -> None:
        """A secret that contains another one is masked as a whole."""
        masker = Masker()
        masker.learn(Secret("pass"))
        masker.learn(Secret("password"))
        assert masker.mask("password pass") == "*** ***"

    @pytest.mark.parametrize("value", ["abc", "", b"x", 1234, None, ["hunter2"]])
    def test_short_values_and_other_types_are_not_masked(self, value: Any) -> None:
        """Masking them would turn ordinary output into asterisks."""
        masker = Masker()
        masker.learn(Secret(value))
        assert masker.mask("abc 1234 x hunter2") == "abc 1234 x hunter2"

    def test_a_plain_value_is_not_masked(self) -> None:
        """`learn` accepts any value and ignores those that are not secrets."""
        masker = Masker()
        masker.learn("hunter2")
        assert masker.mask("hunter2") == "hunter2"

    def test_a_multi_line_secret_is_masked_as_a_whole(self) -> None:
        """A secret such as a private key contains line breaks."""
        masker = Masker()
        masker.learn(Secret("first\nsecond"))
        assert masker.mask("a first\nsecond b") == "a *** b"
