"""Finds out which CI system runs pytest, by the variables that it documents."""

from __future__ import annotations

import os
from typing import Final

GITHUB: Final = "github"
GITLAB: Final = "gitlab"


def system() -> str | None:
    """Return `GITHUB`, `GITLAB`, or None for any other system and outside of CI."""
    if os.environ.get("GITHUB_ACTIONS") == "true":
        return GITHUB
    return GITLAB if os.environ.get("GITLAB_CI") == "true" else None
