"""Internals of pytest-timeout. If they are missing, there is no warning about its method."""

from __future__ import annotations

import pytest


def ends_the_process(config: pytest.Config) -> bool:
    """Return whether a timeout ends the whole process, as pytest-timeout's method `thread` does."""
    return getattr(config, "_env_timeout_method", None) == "thread"
