"""References by which a later process can find a function or class."""

# Annotations are not postponed: a NamedTuple would compile each of them.
import importlib
import os
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple


class NotDurableError(ValueError):
    """A later process could not read a value or call a function. The message says why."""


class Reference(NamedTuple):
    """The location of a function or a class.

    Attributes:
        module: the name of its module. The name is never used to import a conftest.
        qualname: its qualified name in the module.
        file: the file of the module, relative to the root if it is below the root; None means
            that the module is built in.
    """

    module: str
    qualname: str
    file: str | None


def _loaded_modules() -> Iterable[types.ModuleType]:
    return list(sys.modules.values())


class References(NamedTuple):
    """Creates references and resolves them.

    Attributes:
        root: the folder to which the paths of project files are relative.
        modules: a function that returns all loaded modules, whatever their names.
    """

    root: Path
    modules: Callable[[], Iterable[types.ModuleType]] = _loaded_modules

    def of(self, target: Any) -> Reference:
        """Return the reference to a function or a class.

        Raises:
            NotDurableError: the target cannot be found by name; for example, it is a lambda, a
                nested function or a bound method.
        """
        name = getattr(target, "__qualname__", None)
        module = sys.modules.get(getattr(target, "__module__", None) or "")
        if name is None or isinstance(target, types.MethodType):
            # The message must not contain the repr, which may contain a secret.
            kind = f"an object of type {type(target).__qualname__!r}"
            what = kind if name is None else repr(name)
            raise NotDurableError(f"{what} is not a module-level function")
        if "<" in name:
            raise NotDurableError(f"{name!r} is a lambda or a nested function")
        module = module if _found(module, name) is target else self._module_with(target, name)
        if module is None:
            raise NotDurableError(f"{name!r} cannot be found by name in any module")
        return Reference(module.__name__, name, self._relative(module))

    def follow(self, reference: Reference) -> Any:
        """Return the function or class that a reference refers to.

        Raises:
            LookupError: its file cannot be loaded or no longer defines it; the message says
                which.
        """
        module = self._loaded(reference) or self._imported(reference)
        found = _found(module, reference.qualname)
        if found is None:
            where = reference.file or reference.module
            raise LookupError(f"{where} no longer defines {reference.qualname!r}")
        return found

    def _module_with(self, target: Any, name: str) -> types.ModuleType | None:
        """Find the module even if pytest loaded it under another name or without a name."""
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
            # An import by name could load another file.
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
