"""`.html`: the run to look at, in one file without any other."""

from __future__ import annotations

from pytest_plan.report.account import Account


def text(account: Account) -> str:
    """Return the report as one HTML document."""
    raise NotImplementedError
