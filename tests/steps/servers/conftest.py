"""Fixtures of the tests with servers."""

from __future__ import annotations

from tests.plugin.surroundings import outside, project, quick_escalation  # noqa: F401
