"""One environment for two workers: with a plan, and with what people use instead."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from tests.benchmarks.measure import Row, interleave
from tests.benchmarks.suite import Suite

STEPS = 8
STEP_SECONDS = 0.5  # two chains of four steps: a critical path of 2 s
TARGET_MORE = 2.1
REPEATS = 9
SHARED = "pytest-shared-session-scope"

_NAMES = [f"{chain}{number}" for chain in "ab" for number in range(STEPS // 2)]
_TEST = """
import time

import pytest


@pytest.mark.parametrize("number", range(200))
def test_it(%snumber):
    time.sleep(0.005)
"""
_ONCE = f"""
import json


def once(tmp_path_factory, name):
    root = tmp_path_factory.getbasetemp().parent
    file = root / f"{{name}}.json"
    with FileLock(f"{{file}}.lock"):
        if file.is_file():
            return json.loads(file.read_text())
        time.sleep({STEP_SECONDS})
        note("provisioned")
        file.write_text(json.dumps(name))
    return name
"""


def rows() -> Iterator[Row]:
    """Measure, and return the lines of the table."""
    suites = _suites()
    names = list(suites)
    contenders = [lambda suite=suite: suite.run("-n", "2") for suite in suites.values()]
    bare, *others = interleave(contenders, REPEATS)
    histories = {name: suite.history() for name, suite in suites.items()}
    for suite in suites.values():
        suite.close()
    what = f"{STEPS} steps of {STEP_SECONDS} s, 200 tests of 5 ms, -n 2: the tests alone"
    yield Row(what, "s", bare)
    for name, samples in zip(names[1:], others, strict=True):
        made, cleaned = (histories[name].count(what) for what in ("provisioned", "cleaned"))
        more = [one - other for one, other in zip(samples, bare, strict=True)]
        what = f"more with {name}; {made} provisioned, {cleaned} cleaned"
        yield Row(what, "s", more, TARGET_MORE if name == "pytest-plan" else None)
    if SHARED not in names:
        yield Row(f"more with {SHARED}", "s", note="not installed")


def _suites() -> dict[str, Suite]:
    fixtures = "".join(f"{name}, " for name in _NAMES)
    test = {"test_it.py": _TEST % fixtures}
    suites = {
        "bare": Suite({"conftest.py": _nothing(), **test}, "xdist"),
        "pytest-plan": Suite({"conftest.py": _plan(), **test}, "xdist", "pytest_plan"),
        "session fixtures": Suite({"conftest.py": _fixtures(), **test}, "xdist"),
        "the filelock recipe": Suite({"conftest.py": _filelock(), **test}, "xdist"),
    }
    if importlib.util.find_spec("pytest_shared_session_scope"):
        plugin = "pytest_shared_session_scope.plugin"
        suites[SHARED] = Suite({"conftest.py": _shared(), **test}, "xdist", plugin)
    return suites


def _conftest(imports: str, function: str) -> str:
    """Return a module with `function` for each step, with `{name}` and `{needs}` filled in."""
    functions = [
        function.format(name=name, needs=_needs(name), seconds=STEP_SECONDS) for name in _NAMES
    ]
    head = "import time\nimport pytest\nfrom notes import note\n"
    return "\n".join([head, imports, *functions])


def _needs(name: str) -> str:
    """Return the name of what comes before in the chain, nothing for the first."""
    number = int(name[1:])
    return f"{name[0]}{number - 1}" if number else ""


_MAKE_AND_CLEAN = """
def {name}({needs}):
    time.sleep({seconds})
    note("provisioned")
    yield "{name}"
    note("cleaned")
"""


def _nothing() -> str:
    return _conftest(
        "", '@pytest.fixture(scope="session")\ndef {name}({needs}):\n    return "{name}"\n'
    )


def _plan() -> str:
    return _conftest("", f"@pytest.mark.plan_step(needs=()){_MAKE_AND_CLEAN}")


def _fixtures() -> str:
    return _conftest("", f'@pytest.fixture(scope="session"){_MAKE_AND_CLEAN}')


def _filelock() -> str:
    return _conftest(
        f"from filelock import FileLock\n{_ONCE}",
        '@pytest.fixture(scope="session")\n'
        "def {name}(tmp_path_factory, {needs}):\n"
        '    return once(tmp_path_factory, "{name}")\n',
    )


def _shared() -> str:
    return _conftest(
        "from pytest_shared_session_scope import"
        " CleanupToken, SetupToken, shared_session_scope_json\n",
        """
@shared_session_scope_json()
def {name}({needs}):
    data = yield
    if data is SetupToken.FIRST:
        time.sleep({seconds})
        note("provisioned")
        data = "{name}"
    token = yield data
    if token is CleanupToken.LAST:
        note("cleaned")
""",
    )
