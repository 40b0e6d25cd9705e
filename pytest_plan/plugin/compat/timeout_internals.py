"""Internals of pytest-timeout and of debuggers, which suspend time limits.

If those of pytest-timeout are missing, there is no warning about its method.
"""

from __future__ import annotations

import bdb
import sys
from typing import Any

import pytest


def ends_the_process(config: pytest.Config) -> bool:
    """Return whether a timeout ends the whole process, as pytest-timeout's method `thread` does."""
    return getattr(config, "_env_timeout_method", None) == "thread"


def is_debugged() -> bool:
    """Return whether a debugger is attached: that of an editor (pydevd, debugpy), or pdb."""
    monitoring: Any = getattr(sys, "monitoring", None)
    return (
        "pydevd" in sys.modules
        or isinstance(getattr(sys.gettrace(), "__self__", None), bdb.Bdb)
        or (monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID) is not None)
    )
