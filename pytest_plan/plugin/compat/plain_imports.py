"""Bypasses pytest's search for asserts to rewrite when this package's modules are imported.

pytest searches every module in a plugin's package, and the search takes as long as the import. A
single module without asserts can opt out, but a whole package cannot.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _Ours:
    """Finds the modules of this package the way Python's own finder does."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module of this package, or None for any other module."""
        if not name.startswith("pytest_plan."):
            return None
        return PathFinder.find_spec(name, path, target)


def begin() -> None:
    """Bypass the search until `end` is called; a second call does nothing."""
    if _Ours not in sys.meta_path:
        sys.meta_path.insert(0, _Ours)


def end() -> None:
    """Stop bypassing the search; a second call does nothing."""
    with contextlib.suppress(ValueError):
        sys.meta_path.remove(_Ours)
