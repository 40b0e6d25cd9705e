"""Imports our modules as Python does, without looking for asserts to rewrite.

pytest looks into every module below the package of a plugin, and that takes as long as to import
it. Where there is nothing to rewrite it offers no way to say so for more than one module.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _Ours:
    """Finds the modules of this package where Python would."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module of ours, None for all others."""
        if not name.startswith("pytest_plan."):
            return None
        return PathFinder.find_spec(name, path, target)


def begin() -> None:
    """Import our modules plainly until `end`; a second call does nothing."""
    if _Ours not in sys.meta_path:
        sys.meta_path.insert(0, _Ours)


def end() -> None:
    """Import them as pytest wants to; a second call does nothing."""
    with contextlib.suppress(ValueError):
        sys.meta_path.remove(_Ours)
