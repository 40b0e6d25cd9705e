"""Fingerprints of steps, which cover their source, their options and their inputs."""

from __future__ import annotations

import ast
import importlib.util
import os
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_plan import GenericStep, Plan, Step
from pytest_plan.engine.environments.fingerprint import Fingerprints
from pytest_plan.engine.plan import definition_of

SOURCE = """
import os

VERSION = 1
UNRELATED = 1

def helper():
    return VERSION

def build(ctx):
    return helper()

def drop():
    pass

class Client:
    limit = 5

    def ask(self):
        return VERSION
"""
Print = Callable[..., str]
Change = Callable[..., "str | None"]


def _build() -> None:
    """A hook without parameters."""


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], ModuleType]:
    """Write a module and import it, without the cache of an earlier import."""

    def load(source: str) -> ModuleType:
        file = tmp_path / "steps.py"
        file.write_text(textwrap.dedent(source))
        spec = importlib.util.spec_from_file_location("steps", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def _prints(module: ModuleType, hook: str = "build", **options: Any) -> Fingerprints:
    """Return the fingerprints of one step `a` with a hook of this module."""
    return _prints_of(GenericStep(exec=getattr(module, hook)), **options)


def _prints_of(step: Step, **options: Any) -> Fingerprints:
    return Fingerprints(definition_of(Plan().add_step(step, name="a", **options)).linked)


@pytest.fixture
def fingerprint(load: Callable[[str], ModuleType]) -> Print:
    """Return the fingerprint of a step whose hooks a source defines."""

    def fingerprint(source: str = SOURCE, hook: str = "build", **options: Any) -> str:
        return _prints(load(source), hook, **options).of("a")

    return fingerprint


@pytest.fixture
def change(load: Callable[[str], ModuleType], fingerprint: Print) -> Change:
    """Return what has changed in a step with this source since it had the source `before`."""

    def change(
        source: str = SOURCE, hook: str = "build", before: str = SOURCE, **options: Any
    ) -> str | None:
        old = fingerprint(before)
        return _prints(load(source), hook, **options).change("a", old)

    return change


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("return helper()", "return helper() + 1", "build() in steps.py:10"),
        ("VERSION = 1", "VERSION = 2", "VERSION in steps.py:4"),
        ("return VERSION", "return VERSION + 1", "helper() in steps.py:7"),
        ("def helper", "@staticmethod\ndef helper", "helper() in steps.py:8"),
    ],
)
def test_a_change_of_what_its_hooks_name_is_a_change(
    change: Change, old: str, new: str, what: str
) -> None:
    """Functions and constants in the same file count, even if named indirectly."""
    assert change(SOURCE.replace(old, new)) == f"its code: {what}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("UNRELATED = 1", "UNRELATED = 2"),
        ("def drop():\n    pass", "def drop():\n    return 1"),
        ("\nVERSION = 1", "\n\n# A comment.\nVERSION = 1  # another"),
        ("    return helper()", "    return helper()  # why"),
        ("import os", "import os\nOTHER = [helper for helper in ()]"),
    ],
)
def test_what_its_hooks_do_not_name_is_no_change(change: Change, old: str, new: str) -> None:
    """Comments and the position in the file do not count either."""
    assert change(SOURCE.replace(old, new)) is None


@pytest.mark.parametrize("block", ["if True:", "try:", "with open(__file__):"])
def test_a_definition_in_a_block_counts(change: Change, block: str) -> None:
    """A name may be defined inside a top-level statement."""
    end = "\nexcept ValueError:\n    pass" if block == "try:" else ""
    before = SOURCE.replace("VERSION = 1", f"{block}\n    VERSION = 1{end}")
    assert change(before, before=before) is None
    line = "its code: VERSION in steps.py:4"
    assert change(before.replace("VERSION = 1", "VERSION = 2"), before=before) == line


def test_parameters_hide_definitions_of_the_same_name(change: Change) -> None:
    """A parameter named `server` is not the function `server`, but its default value may be."""
    for helper, what in (
        ("def url(server, *rest): return [server, lambda: server]", None),
        ("def url(*server, **ports): return (lambda ports: ports)(server)", None),
        ("def url(one, two=server): return one", "its code: server() in steps.py:2"),
        ("def url(one, two=lambda server: 1): return server", "its code: server() in steps.py:2"),
    ):
        source = f"\ndef server(): return 1\n{helper}\ndef build(): return url(1)\n"
        assert change(source.replace("return 1\n", "return 2\n", 1), before=source) == what


def test_a_file_that_has_not_changed_is_not_parsed(
    load: Callable[[str], ModuleType], fingerprint: Print, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that reuses every step does not spend time on parsing."""
    before = fingerprint()
    prints = _prints(load(SOURCE))
    with monkeypatch.context() as patch:
        patch.setattr(ast, "parse", None)
        assert prints.change("a", before) is None


def test_another_hook_of_the_same_file_is_a_change(change: Change) -> None:
    """Two steps of one file have different fingerprints."""
    assert change() is None
    assert change(hook="drop") == "its code: drop() in steps.py:13"


@pytest.mark.parametrize("nothing", ["", "0123 4567", "[1]", "{}"])
def test_a_fingerprint_that_cannot_be_read_is_a_change(
    load: Callable[[str], ModuleType], nothing: str
) -> None:
    """The journal of an unnamed run has an empty fingerprint."""
    change = _prints(load(SOURCE)).change("a", nothing)
    assert change == "its code could not be read when it was kept"


def test_a_class_counts_as_a_whole(change: Change) -> None:
    """A hook that names a class depends on all of its methods."""
    before = SOURCE.replace("return helper()", "return Client()")
    after = before.replace("limit = 5", "limit = 6")
    assert change(after, before=before) == "its code: Client in steps.py:16"


HELD = """
import dataclasses, enum, functools
from functools import partial
from pathlib import Path
from threading import Lock
from types import SimpleNamespace as Bag
from pytest_plan import Step

class Size(enum.Enum):
    SMALL = 1
    LARGE = 2

@dataclasses.dataclass
class Config:
    version: str
    lock: object = None

def made_by(version):
    def build(ctx, size=Size.SMALL):
        return version
    return build

def decorated(version):
    def decorate(function):
        @functools.wraps(function)
        def call(*args):
            return version
        return call
    return decorate

class Cluster:
    base = 1
    def __init__(self, nodes): self.nodes = nodes
    def up(self): pass
    def __call__(self): pass

class Server(Step):
    timeout = 5
    def __init__(self, version): self.version, self.lock = version, Lock()
    def exec(self): pass

def plain(ctx, *, size=3): pass
def with_default(value):
    def build(ctx, size=value): pass
    return build

def looped():
    loop = []
    loop.append(loop)
    return loop

def in_list(version): return [lambda ctx: version]
def builder(version): return partial(plain, size=version)
"""


def _change(module: ModuleType, old: str, new: str) -> str | None:
    """Return what has changed between two hooks or steps that expressions in a module make."""
    before, after = (eval(one, vars(module)) for one in (old, new))
    if not isinstance(before, Step):
        before, after = GenericStep(exec=before), GenericStep(exec=after)
    assert _prints_of(before).change("a", _prints_of(before).of("a")) is None
    return _prints_of(after).change("a", _prints_of(before).of("a"))


@pytest.mark.parametrize(
    ("make", "old", "new", "what"),
    [
        ("made_by({})", "'15'", "'16'", "closure: version"),
        ("made_by({})", "['15', {'a': 1}]", "['15', {'a': 2}]", "closure: version"),
        ("made_by({})", "Config('15')", "Config('16')", "closure: version"),
        ("made_by({})", "Config(Config(1))", "Config(Config(2))", "closure: version"),
        ("made_by({})", "Bag(a=1)", "Bag(a=2)", "closure: version"),
        ("made_by({})", "Size.SMALL", "Size.LARGE", "closure: version"),
        ("made_by({})", "Path('a')", "Path('b')", "closure: version"),
        ("made_by({})", "{1, 2}", "{1, 3}", "closure: version"),
        ("made_by({})", "Path", "Size", "closure: version"),
        ("made_by({})", "None", "object()", "closure: version"),
        ("made_by(made_by({}))", "1", "2", "closure: version"),
        ("in_list({})[0]", "1", "2", "closure: version"),
        ("decorated({})(plain)", "1", "2", "closure: version"),
        ("decorated(1)(made_by({}))", "1", "2", "closure: version"),
        ("with_default({})", "1", "2", "default: size"),
        ("builder({})", "1", "2", "argument: size"),
        ("partial(plain, {})", "1", "2", "argument: 1"),
        ("partial(partial(plain, {}), size=1)", "1", "2", "argument: 1"),
        ("Cluster({}).up", "1", "2", "attribute: nodes"),
        ("Cluster({})", "1", "2", "attribute: nodes"),
        ("Server({})", "1", "2", "attribute: version"),
        ("Server([{}])", "1", "2", "attribute: version"),
        ("type('Sub', (Server,), dict(flavour={}))(1)", "1", "2", "attribute: flavour"),
    ],
)
def test_what_a_hook_holds_counts(
    load: Callable[[str], ModuleType], make: str, old: str, new: str, what: str
) -> None:
    """Its source has not changed; what was passed to the code that created it has."""
    assert _change(load(HELD), make.format(old), make.format(new)) == what


@pytest.mark.parametrize(
    "held", ["Lock()", "object()", "Config(1, Lock())", "[Lock()]", "looped()"]
)
def test_other_objects_count_by_their_type(load: Callable[[str], ModuleType], held: str) -> None:
    """A lock or a client is another object in each run, which is no change."""
    module = load(HELD)
    assert _change(module, f"made_by({held})", f"made_by({held})") is None
    assert _change(module, f"Server({held})", f"Server({held})") is None


def test_a_constant_counts_by_its_value(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """Its source is the same, but it comes from a file or an environment variable."""
    source = """
    from pathlib import Path
    VERSION = (Path(__file__).parent / "version").read_text()
    FOUND = []

    def helper(): return VERSION
    def build(ctx): FOUND.append(helper())
    """
    (tmp_path / "version").write_text("15")
    module = load(source)
    before = _prints(module).of("a")
    module.FOUND.append(1)  # a step may change it
    assert _prints(module).change("a", before) is None
    (tmp_path / "version").write_text("16")
    assert _prints(load(source)).change("a", before) == "constant: VERSION"


def test_code_of_other_files_does_not_count(load: Callable[[str], ModuleType]) -> None:
    """Not even if a hook holds a function of another file."""
    module = load(HELD)
    outside = GenericStep(exec=module.made_by(textwrap.dedent))
    assert "textwrap.py" not in _prints_of(outside).of("a")


@pytest.mark.parametrize(
    ("option", "value"), [("retries", 1), ("timeout", 5), ("retry_on", OSError)]
)
def test_options_count(change: Change, option: str, value: Any) -> None:
    """An option that changes how a step is provisioned changes its fingerprint."""
    assert change(**{option: value}) == f"option {option}"


@pytest.mark.parametrize("option", ["eager", "autouse"])
def test_options_that_say_when_it_runs_do_not(fingerprint: Print, option: str) -> None:
    """These options do not change what the step provides."""
    assert fingerprint() == fingerprint(**{option: True})


def test_inputs_count(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """The file of `inputs` that was changed, added or removed is named."""
    folder = tmp_path / "sql"
    folder.mkdir()

    def prints() -> Fingerprints:
        return _prints(load(SOURCE), inputs=[os.fspath(folder)])

    def change(name: str, text: str | None) -> str | None:
        before = prints().of("a")
        (folder / name).unlink() if text is None else (folder / name).write_text(text)
        said = prints().change("a", before)
        return None if said is None else said[said.index("sql") :]

    assert change("1.sql", "CREATE TABLE a") == "sql/1.sql"
    assert change("2.sql", "CREATE TABLE b") == "sql/2.sql"
    assert change("2.sql", "CREATE TABLE c") == "sql/2.sql"
    assert change("2.sql", "CREATE TABLE c") is None
    assert change("1.sql", None) == "sql/1.sql"


def test_functions_in_inputs_count_by_their_result(
    change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable that such a function reads has changed, or is missing."""

    def prints(name: str) -> Fingerprints:
        def version() -> str:
            return os.environ["PG_VERSION"]

        functions = {"lambda": lambda: version(), "version()": version}
        return _prints_of(GenericStep(exec=_build), inputs=[functions[name]])

    for name in ("lambda", "version()"):
        monkeypatch.setenv("PG_VERSION", "15")
        before = prints(name).of("a")
        assert prints(name).change("a", before) is None
        monkeypatch.setenv("PG_VERSION", "16")
        assert prints(name).change("a", before) == f"inputs: {name}"
        monkeypatch.delenv("PG_VERSION")
        said = f"inputs: {name} cannot be read: KeyError: 'PG_VERSION'"
        assert prints(name).change("a", before) == said


def test_globs_are_relative_to_the_declaration(tmp_path: Path) -> None:
    """An added file changes the fingerprint."""
    step = GenericStep(exec=_build)
    plan = Plan().add_step(step, name="a", inputs=["sql/*.sql"])

    def made() -> str:
        planned = definition_of(plan).linked()["a"]._replace(origin=f"{tmp_path}/conftest.py:1")
        return Fingerprints(lambda: {"a": planned}).of("a")

    (tmp_path / "sql").mkdir()
    before = made()
    (tmp_path / "sql" / "1.sql").write_text("")
    assert before != made()
    assert made() == made()


def test_what_cannot_be_read_is_always_new(
    load: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    """A step whose source cannot be read never counts as unchanged."""
    module = load(SOURCE)
    before = _prints(module).of("a")
    (tmp_path / "steps.py").unlink()
    said = _prints(module).change("a", before)
    assert said is not None
    assert said.startswith("its code cannot be read: FileNotFoundError")
    unread = _prints(module).of("a")
    said = _prints(module).change("a", unread)
    assert said is not None
    assert said.startswith("its code could not be read when it was kept: FileNotFoundError")


def test_steps_that_begin_at_the_same_time_parse_their_file_once(
    load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is never parsed on two threads at the same time."""
    prints, parse = _prints(load(SOURCE)), ast.parse
    begun, never, parsed = threading.Barrier(3), threading.Event(), []

    def slowly(source: bytes) -> ast.Module:
        parsed.append(source)
        never.wait(0.2)  # long enough for another thread to get here
        return parse(source)

    def fingerprint() -> str:
        begun.wait(10)
        return prints.of("a")

    monkeypatch.setattr(ast, "parse", slowly)
    with ThreadPoolExecutor() as threads:
        found = [threads.submit(fingerprint) for _ in range(3)]
    assert len({one.result() for one in found}) == 1
    assert len(parsed) == 1
