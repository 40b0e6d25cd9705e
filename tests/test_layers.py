"""The shape of the package: modules depend on each other in one direction, and stay short.

Each rule is a function from a source tree to its violations. It must find no violation in the
package and in sound small trees, and must find the violation in each small tree that has one.
"""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pytest_plan

PACKAGE = Path(__file__).parent.parent / "pytest_plan"
LONGEST_FILE = 400
LONGEST_FUNCTION = 60

# The rooms of each layer from the ground up. A room imports only from rooms on lower floors.
FLOORS = {
    "pytest_plan.engine": [
        ["model"],
        ["definition", "processes"],
        ["journal"],
        ["shared"],
        ["calls"],
        ["execution"],
        ["environments"],
        ["plan"],
    ],
    "pytest_plan.plugin": [
        ["interface", "compat"],
        ["declaring", "main_thread"],
        ["items"],
        ["run"],
        ["xdist"],
        ["session"],
        ["commands"],
    ],
    "pytest_plan.sharing": [
        ["model"],
        ["errors"],
        ["protocol", "rules"],
        ["stores"],
        ["urls"],
    ],
    "pytest_plan.report": [
        ["verdict"],
        ["account", "terminal", "otel"],
        ["collect", "formats", "reporters"],
        ["files"],
    ],
    "pytest_plan.steps": [
        ["ready"],
        ["attach"],
        ["containers", "run_once", "service"],
        ["servers"],
        ["databases", "playbook"],
    ],
}
MOST_ENTRIES = 9  # modules and rooms in a folder
FOREIGN_TO_ENGINE = {"_pytest", "execnet", "pluggy", "pytest", "pytest_timeout", "xdist"}
MAY_IMPORT_PRIVATE_PYTEST = "pytest_plan.plugin.compat"

# Tests of users replace these, while code and threads of the package run: each is called through a
# reference that they do not replace.
REPLACED_BY_TESTS = {"os.getpid", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
MAY_IMPORT_TIME = {
    "pytest_plan.engine.model.clock",
    "pytest_plan.engine.environments.watchdog",  # a process that runs no test
}
MAY_CALL_GETPID = {"pytest_plan.plugin.session.lookup"}  # it is called before the first test


@dataclass(frozen=True)
class Import:
    """One import of `target` by the module `source`."""

    source: str
    target: str
    late: bool  # inside a function, so not executed when the module is imported
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.source} imports {self.target}"


@dataclass(frozen=True)
class Module:
    """A source file with its dotted name."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        """The package to which the module's relative imports refer."""
        return self.name if self.path.stem == "__init__" else self.name.rpartition(".")[0]


@lru_cache(maxsize=1)  # parsing takes most of the time, and every rule asks for the same tree
def modules_of(root: Path) -> list[Module]:
    """Parse every file of the package in the folder `root`."""
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(name, path, ast.parse(path.read_text(), str(path))))
    return found


@lru_cache(maxsize=1)
def imports_of(root: Path) -> list[Import]:
    """List all imports of the package in `root`, each with the module that it actually reaches."""
    modules = modules_of(root)
    known = {module.name for module in modules}
    return [
        Import(module.name, target, late, typing_only)
        for module in modules
        for node, late, typing_only in _import_nodes(module.tree)
        for target in _targets(node, module.package, known)
    ]


def _import_nodes(
    node: ast.AST, *, late: bool = False, typing_only: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, late, typing_only
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _import_nodes(child, late=late, typing_only=True)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _import_nodes(child, late=late or inside, typing_only=typing_only)


def _targets(node: ast.Import | ast.ImportFrom, package: str, known: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        parents = package.split(".")
        base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
    for alias in node.names:
        submodule = f"{base}.{alias.name}"
        yield submodule if submodule in known else base


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def engine_knows_nothing_above_it(root: Path) -> list[str]:
    """The engine imports neither pytest, its plugins and libraries, nor the layers above it."""
    above = tuple(f"pytest_plan.{layer}" for layer in ("plugin", "report", "sharing", "steps"))
    return [
        str(found)
        for found in imports_of(root)
        if _is_in(found.source, "pytest_plan.engine")
        and (
            found.target.partition(".")[0] in FOREIGN_TO_ENGINE
            or found.target == "pytest_plan"
            or any(_is_in(found.target, package) for package in above)
        )
    ]


def steps_use_only_the_engine(root: Path) -> list[str]:
    """Ready-made steps import nothing of the package but the engine, and no other layer uses them.

    They need no pytest either, because a script uses them, too.
    """
    steps = "pytest_plan.steps"
    return [
        str(found)
        for found in imports_of(root)
        if (_is_in(found.source, steps) and _is_foreign_to_steps(found.target))
        or (_is_in(found.target, steps) and not _is_in(found.source, steps))
    ]


def _is_foreign_to_steps(target: str) -> bool:
    return _is_foreign(target, "engine", "steps")


def _is_foreign(target: str, *layers: str) -> bool:
    if not _is_in(target, "pytest_plan"):
        return target.partition(".")[0] in FOREIGN_TO_ENGINE
    return not any(_is_in(target, f"pytest_plan.{layer}") for layer in layers)


def sharing_uses_only_the_engine(root: Path) -> list[str]:
    """Stores import nothing of the package but the engine, and only parts of the plugin use them.

    The plugin imports these parts inside functions: a run that shares nothing loads none of them.
    """
    sharing = "pytest_plan.sharing"
    return [
        str(found)
        for found in imports_of(root)
        if (_is_in(found.source, sharing) and _is_foreign(found.target, "engine", "sharing"))
        or (
            _shares(found.target)
            and not _shares(found.source)
            and not (
                _is_in(found.source, "pytest_plan.plugin") and (found.late or found.typing_only)
            )
        )
    ]


def _shares(module: str) -> bool:
    rooms = (
        "sharing",
        "plugin.run.environments.sharing",
        "plugin.run.environments.takeover",
        "plugin.run.environments.shared_logs",
        "plugin.commands.environments.shared",
        "plugin.session.controller.environment_store",
    )
    return any(_is_in(module, f"pytest_plan.{room}") for room in rooms)


def plugin_imports_reports_late(root: Path) -> list[str]:
    """The plugin imports reports only inside functions, because reports import the plugin."""
    return [
        str(found)
        for found in imports_of(root)
        if _is_plugin_to_report(found) and not (found.late or found.typing_only)
    ]


def _is_plugin_to_report(found: Import) -> bool:
    return _is_in(found.source, "pytest_plan.plugin") and _is_in(found.target, "pytest_plan.report")


def modules_import_in_no_circle(root: Path) -> list[str]:
    """No module imports itself through others. Late imports and imports for types count."""
    graph: dict[str, set[str]] = {module.name: set() for module in modules_of(root)}
    for found in imports_of(root):
        if found.target in graph and not (found.late and _is_plugin_to_report(found)):
            graph[found.source].add(found.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" imports ".join(reversed(error.args[1]))]
    return []


def rooms_import_from_lower_floors(root: Path) -> list[str]:
    """A room imports only from rooms on lower floors. Late imports and imports for types count."""
    wrong = []
    for package, floors in FLOORS.items():
        height = {room: level for level, rooms in enumerate(floors) for room in rooms}
        for found in imports_of(root):
            source, target = _room(found.source, package), _room(found.target, package)
            if source == target or source is None or target is None:
                continue
            if height.get(target, len(floors)) >= height.get(source, -1):
                wrong.append(str(found))
    return wrong


def _room(module: str, package: str) -> str | None:
    """Return the room or single module of `package` that contains this module, or None."""
    if not module.startswith(f"{package}."):
        return None
    return module.removeprefix(f"{package}.").partition(".")[0]


def folders_are_small(root: Path) -> list[str]:
    """A folder holds at most nine modules and rooms, not counting `__init__.py`."""
    entries: dict[str, set[str]] = {}
    for module in modules_of(root):
        folder, _, name = module.name.rpartition(".")
        entries.setdefault(folder, set()).add(name)
    return [
        f"{folder} has {len(names)} entries"
        for folder, names in entries.items()
        if len(names) > MOST_ENTRIES
    ]


def rooms_export_nothing(root: Path) -> list[str]:
    """The `__init__.py` of a room has a docstring and no code, so an import loads one module."""
    return [
        f"{module.name} has code in its __init__.py"
        for module in modules_of(root)
        if module.path.stem == "__init__"
        and any(module.name.startswith(f"{layer}.") for layer in FLOORS)
        and module.tree.body[ast.get_docstring(module.tree) is not None :]
    ]


def pytest_is_used_by_its_public_names(root: Path) -> list[str]:
    """Nothing imports `_pytest` outside of `plugin/compat/`."""
    return [
        str(found)
        for found in imports_of(root)
        if _is_in(found.target, "_pytest") and not _is_in(found.source, MAY_IMPORT_PRIVATE_PYTEST)
    ]


def clock_is_out_of_reach_of_tests(root: Path) -> list[str]:
    """Only the system clock imports `time`, and no function looks up what tests often replace."""
    wrong = [
        str(found)
        for found in imports_of(root)
        if found.target == "time" and found.source not in MAY_IMPORT_TIME
    ]
    for module in modules_of(root):
        if module.name not in MAY_CALL_GETPID:
            calls = (node for node in ast.walk(module.tree) if isinstance(node, ast.Call))
            names = (ast.unparse(call.func) for call in calls)
            wrong += [
                f"{module.name} calls {name}"
                for name in names
                if ".".join(name.split(".")[-2:]) in REPLACED_BY_TESTS
            ]
    return wrong


def files_are_short(root: Path) -> list[str]:
    """A file has at most 400 lines."""
    lengths = [(found.name, len(found.path.read_text().splitlines())) for found in modules_of(root)]
    return [f"{name} has {lines} lines" for name, lines in lengths if lines > LONGEST_FILE]


def functions_are_short(root: Path) -> list[str]:
    """A function has at most 60 lines, not counting its decorators and its docstring."""
    found = []
    for module in modules_of(root):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = _lines(node)
                if lines > LONGEST_FUNCTION:
                    found.append(f"{module.name}.{node.name} has {lines} lines")
    return found


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = _span(function)
    if ast.get_docstring(function, clean=False) is not None:
        lines -= _span(function.body[0])
    return lines


def _span(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


Rule = Callable[[Path], list[str]]

RULES: list[Rule] = [
    engine_knows_nothing_above_it,
    steps_use_only_the_engine,
    sharing_uses_only_the_engine,
    plugin_imports_reports_late,
    modules_import_in_no_circle,
    rooms_import_from_lower_floors,
    folders_are_small,
    rooms_export_nothing,
    pytest_is_used_by_its_public_names,
    clock_is_out_of_reach_of_tests,
    files_are_short,
    functions_are_short,
]

LONG_BODY = "\n    pass" * LONGEST_FUNCTION

SOUND = {
    "__init__.py": "from .engine.plan import Plan",
    "engine/__init__.py": "",
    "engine/model/__init__.py": "'The words.'",
    "engine/model/errors.py": "",
    "engine/model/clock.py": "import time\nnow = time.monotonic",
    "engine/processes/copies.py": "import os\ngetpid = os.getpid",
    "engine/definition/step.py": "from ..model.errors import PlanError",
    "engine/execution/executor.py": "from pytest_plan.engine.definition import step",
    "engine/plan.py": "from .execution.executor import run",
    "plugin/__init__.py": "import pytest\ndef hook():\n    from pytest_plan.report import files",
    "plugin/compat/internals.py": "from _pytest import nodes",
    "plugin/session/session.py": "from pytest_plan.plugin.compat import internals",
    "steps/__init__.py": "from pytest_plan.steps.service import service",
    "steps/ready/__init__.py": "",
    "steps/ready/tcp.py": "",
    "steps/service.py": "import docker\nfrom pytest_plan.engine.plan import Plan\n"
    "from pytest_plan.steps.ready import tcp",
    "plugin/run/member.py": "def late():\n    from pytest_plan.sharing import urls",
    "sharing/__init__.py": "",
    "sharing/urls.py": "import redis\nfrom pytest_plan.engine.model.errors import PlanError",
    "report/__init__.py": "",
    "report/account.py": "",
    "report/files.py": "from pytest_plan.plugin import hook\nfrom . import account",
    **{f"full/room_{number}/__init__.py": "" for number in range(MOST_ENTRIES)},
    "full/__init__.py": "",
    "long.py": "pass\n" * LONGEST_FILE,
    "function.py": f"@decorator\ndef long():\n    '''One.\n\n    Two.\n    '''{LONG_BODY[:-9]}",
}

ERRORS = "engine/model/errors.py"

VIOLATIONS: list[tuple[Rule, str, str]] = [
    (engine_knows_nothing_above_it, ERRORS, "import pytest"),
    (engine_knows_nothing_above_it, ERRORS, "def late():\n    import pluggy._hooks"),
    (engine_knows_nothing_above_it, ERRORS, "from xdist import dsession"),
    (engine_knows_nothing_above_it, ERRORS, "from pytest_plan import Plan"),
    (engine_knows_nothing_above_it, ERRORS, "from ... import plugin"),
    (engine_knows_nothing_above_it, ERRORS, "import pytest_plan.report.files"),
    (engine_knows_nothing_above_it, "engine/__init__.py", "from ..plugin import options"),
    (
        engine_knows_nothing_above_it,
        "engine/plan.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pytest",
    ),
    (steps_use_only_the_engine, "steps/service.py", "import pytest"),
    (
        steps_use_only_the_engine,
        "steps/service.py",
        "def late():\n    from pytest_plan import Plan",
    ),
    (steps_use_only_the_engine, "steps/ready/tcp.py", "from pytest_plan.plugin import hook"),
    (steps_use_only_the_engine, "plugin/__init__.py", "from pytest_plan.steps import service"),
    (sharing_uses_only_the_engine, "sharing/urls.py", "import pytest"),
    (sharing_uses_only_the_engine, "sharing/urls.py", "from pytest_plan.plugin import hook"),
    (sharing_uses_only_the_engine, "plugin/__init__.py", "from pytest_plan.sharing import urls"),
    (
        sharing_uses_only_the_engine,
        "report/files.py",
        "def late():\n    from pytest_plan.sharing import urls",
    ),
    (plugin_imports_reports_late, "plugin/__init__.py", "from pytest_plan.report import files"),
    (plugin_imports_reports_late, "plugin/session/session.py", "import pytest_plan.report"),
    (modules_import_in_no_circle, ERRORS, "from ..plan import Plan"),
    (modules_import_in_no_circle, ERRORS, "def late():\n    from ..execution import executor"),
    (modules_import_in_no_circle, "engine/execution/executor.py", "import pytest_plan"),
    (
        modules_import_in_no_circle,
        ERRORS,
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..definition import step",
    ),
    (rooms_import_from_lower_floors, ERRORS, "from ..definition import step"),
    (rooms_import_from_lower_floors, ERRORS, "def late():\n    import pytest_plan.engine.plan"),
    (
        rooms_import_from_lower_floors,
        "engine/definition/step.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..processes import tree",
    ),
    (rooms_import_from_lower_floors, "engine/processes/tree.py", "from ..definition import step"),
    (rooms_import_from_lower_floors, "engine/cellar.py", "from .model import errors"),
    (rooms_import_from_lower_floors, "plugin/compat/internals.py", "from ..session import session"),
    (rooms_import_from_lower_floors, "report/account.py", "from .files import hook"),
    (rooms_import_from_lower_floors, "steps/ready/tcp.py", "from ..service import service"),
    (folders_are_small, "full/more.py", ""),
    (rooms_export_nothing, "engine/model/__init__.py", "'Words.'\nfrom . import errors"),
    (rooms_export_nothing, "plugin/session/__init__.py", "NAME = 1"),
    (pytest_is_used_by_its_public_names, "plugin/__init__.py", "from _pytest.config import Config"),
    (
        pytest_is_used_by_its_public_names,
        "plugin/session/session.py",
        "def f():\n    import _pytest",
    ),
    (clock_is_out_of_reach_of_tests, ERRORS, "import time"),
    (clock_is_out_of_reach_of_tests, ERRORS, "def late():\n    from time import monotonic"),
    (clock_is_out_of_reach_of_tests, ERRORS, "import os\ndef late():\n    return os.getpid()"),
    (clock_is_out_of_reach_of_tests, "report/account.py", "NOW = datetime.datetime.now()"),
    (files_are_short, "long.py", "pass\n" * (LONGEST_FILE + 1)),
    (functions_are_short, "function.py", f"def long():{LONG_BODY}"),
    (functions_are_short, "function.py", f"class C:\n async def f():\n    'Doc.'{LONG_BODY}"),
]


def write_tree(root: Path, files: dict[str, str]) -> Path:
    """Write a package `pytest_plan` with these files to a folder in `root`."""
    package = root / "pytest_plan"
    for name, source in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return package


def test_package_keeps_the_rules() -> None:
    """The package does not violate any rule."""
    wrong = {rule.__name__: rule(PACKAGE) for rule in RULES}
    assert not any(wrong.values()), wrong


@pytest.mark.parametrize("rule", RULES)
def test_rule_accepts_a_sound_tree(rule: Rule, tmp_path: Path) -> None:
    """A rule finds nothing in a sound tree, even with the longest allowed file and function."""
    assert rule(write_tree(tmp_path, SOUND)) == []


@pytest.mark.parametrize(("rule", "file", "source"), VIOLATIONS)
def test_rule_sees_a_planted_violation(rule: Rule, file: str, source: str, tmp_path: Path) -> None:
    """A rule finds the only violation in an otherwise sound tree."""
    tree = write_tree(
        tmp_path,
        SOUND | {"engine/cleanup.py": "", "plugin/options.py": "", file: source},
    )
    assert len(rule(tree)) == 1


def test_public_names_exist_and_are_sorted() -> None:
    """`__all__` is sorted, and `pytest_plan` is the `__module__` of every public name."""
    assert pytest_plan.__all__ == sorted(pytest_plan.__all__)
    assert {getattr(pytest_plan, name).__module__ for name in pytest_plan.__all__} == {
        "pytest_plan"
    }


@pytest.mark.parametrize("name", pytest_plan.__all__)
def test_every_public_name_can_be_imported_first(name: str) -> None:
    """Every public name can be the first one imported, and is pickled by its public name."""
    script = (
        f"import pickle; from pytest_plan import {name} as found; "
        "assert pickle.loads(pickle.dumps(found)) is found; "
        "assert found.__module__ == 'pytest_plan', found.__module__"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_type_checkers_see_the_same_names() -> None:
    """The imports for type checkers are the same names as in the table of lazy imports."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    imported = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and _is_in(node.module or "", "pytest_plan")
        for alias in node.names
    }
    assert imported == {
        f"pytest_plan.{home}.{name}"
        for home, names in pytest_plan._HOMES.items()
        for name in names.split()
    }


IMPORT_WITHOUT_PYTEST = """
import signal, sys, threading

def refuse(*args):
    raise AssertionError(args)

sys.modules["pytest"] = sys.modules["pluggy"] = None
signal.signal = threading.Thread.start = refuse
import pytest_plan
from pytest_plan import Plan
"""


def test_import_needs_no_pytest_and_does_nothing() -> None:
    """The import works without pytest, starts no thread and registers no signal handler."""
    subprocess.run([sys.executable, "-W", "error", "-c", IMPORT_WITHOUT_PYTEST], check=True)
