"""Fixtures of the tests of the ready-made steps."""

from __future__ import annotations

from tests.leftovers import nothing_left_behind  # noqa: F401
