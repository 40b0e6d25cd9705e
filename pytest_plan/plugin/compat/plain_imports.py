"""Imports the modules of this package without pytest's search for asserts to rewrite.

pytest searches every module in the package of a plugin, which takes as long as importing it. A
module without asserts can opt out, but there is no way to opt out for a whole package.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _Ours:
    """Finds the modules of this package as Python's own finder does."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module of this package, None for any other module."""
        if not name.startswith("pytest_plan."):
            return None
        return PathFinder.find_spec(name, path, target)


def begin() -> None:
    """Bypass the search until `end`; a second call does nothing."""
    if _Ours not in sys.meta_path:
        sys.meta_path.insert(0, _Ours)


def end() -> None:
    """Restore pytest's way of importing; a second call does nothing."""
    with contextlib.suppress(ValueError):
        sys.meta_path.remove(_Ours)
