"""Functions and classes by where they are written, for a later process to find again."""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple


class NotDurableError(ValueError):
    """A value or a function that no later process could read or run; the text says why."""


class Reference(NamedTuple):
    """Where a function or a class is.

    Attributes:
        module: the name under which it can be imported; a conftest never is.
        qualname: its name in the module.
        file: its file, relative to the root when it lies below it; None: built in.
    """

    module: str
    qualname: str
    file: str | None


def _loaded_modules() -> Iterable[types.ModuleType]:
    return list(sys.modules.values())


class References(NamedTuple):
    """Makes references and follows them.

    Attributes:
        root: the folder that the files of a project are relative to.
        modules: returns the modules that are loaded, whatever name they go by.
    """

    root: Path
    modules: Callable[[], Iterable[types.ModuleType]] = _loaded_modules

    def of(self, target: Any) -> Reference:
        """Return where a function or a class is.

        Raises:
            NotDurableError: it has no place: a lambda, a nested function, a bound method.
        """
        name = getattr(target, "__qualname__", None)
        module = sys.modules.get(getattr(target, "__module__", None) or "")
        if name is None or isinstance(target, types.MethodType):
            # Not its repr: it may show what nobody should see.
            what = f"a {type(target).__qualname__}" if name is None else repr(name)
            raise NotDurableError(f"{what} is no function of a module")
        if "<" in name:
            raise NotDurableError(f"{name!r} is a lambda or a nested function")
        module = module if _found(module, name) is target else self._module_with(target, name)
        if module is None:
            raise NotDurableError(f"{name!r} cannot be found again in a module")
        return Reference(module.__name__, name, self._relative(module))

    def follow(self, reference: Reference) -> Any:
        """Return the function or class.

        Raises:
            LookupError: its file, or it in its file, is not there any more; the text says which.
        """
        module = self._loaded(reference) or self._imported(reference)
        found = _found(module, reference.qualname)
        if found is None:
            where = reference.file or reference.module
            raise LookupError(f"{where} has no {reference.qualname!r} any more")
        return found

    def _module_with(self, target: Any, name: str) -> types.ModuleType | None:
        """Find a module that pytest has loaded but that goes by another name, or by none."""
        code = getattr(target, "__code__", None)
        file = None if code is None else code.co_filename
        for module in self.modules():
            if file is not None and getattr(module, "__file__", None) != file:
                continue
            if _found(module, name) is target:
                return module
        return None

    def _relative(self, module: types.ModuleType) -> str | None:
        file = getattr(module, "__file__", None)
        if file is None:
            return None
        relative = os.path.relpath(file, self.root)
        return file if relative.startswith("..") else relative

    def _loaded(self, reference: Reference) -> types.ModuleType | None:
        if reference.file is None:
            return None
        file = str(self.root / reference.file)
        return next((one for one in self.modules() if getattr(one, "__file__", None) == file), None)

    def _imported(self, reference: Reference) -> types.ModuleType:
        where = reference.file or reference.module
        if Path(where).name == "conftest.py" or reference.module == "__main__":
            # Another file may go by that name.
            raise LookupError(f"{where} is not loaded")
        try:
            return importlib.import_module(reference.module)
        except Exception as error:
            raise LookupError(f"{where} cannot be imported: {error}") from error


def _found(module: types.ModuleType | None, qualname: str) -> Any:
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found
