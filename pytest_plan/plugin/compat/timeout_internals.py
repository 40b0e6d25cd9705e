"""Internals of pytest-timeout. If they are missing, its session timeout stays unchanged."""

from __future__ import annotations

import sys
import time

import pytest


def ends_the_process(config: pytest.Config) -> bool:
    """Return whether a timeout ends the whole process, as pytest-timeout's method `thread` does."""
    return getattr(config, "_env_timeout_method", None) == "thread"


def shorten_session_timeout(config: pytest.Config, remaining: float) -> None:
    """Make pytest-timeout's session timeout expire in at most `remaining` seconds.

    Do nothing if pytest-timeout is not loaded or keeps its deadline elsewhere.
    """
    timeout = sys.modules.get("pytest_timeout")
    if timeout is None or not config.pluginmanager.is_registered(timeout):
        return
    expire_key = getattr(timeout, "SESSION_EXPIRE_KEY", None)
    timeout_key = getattr(timeout, "SESSION_TIMEOUT_KEY", None)
    if expire_key is None or timeout_key is None:
        return
    expires = time.time() + remaining  # the clock that pytest-timeout uses
    users = config.stash.get(expire_key, 0)
    if not users or expires < users:
        config.stash[expire_key] = expires
        config.stash[timeout_key] = round(remaining, 2)
