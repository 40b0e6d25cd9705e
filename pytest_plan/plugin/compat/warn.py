"""Warnings in pytest's own summary, which `-W error` does not turn into an INTERNALERROR."""

from __future__ import annotations

import warnings

import pytest


def warn(config: pytest.Config, text: str) -> None:
    """Let pytest list a warning at the end of the run."""
    message = warnings.WarningMessage(
        pytest.PytestWarning(text), pytest.PytestWarning, "pytest-plan", 0
    )
    config.hook.pytest_warning_recorded.call_historic(
        kwargs={"warning_message": message, "when": "runtest", "nodeid": "", "location": None}
    )
