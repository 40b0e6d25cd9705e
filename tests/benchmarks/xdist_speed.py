"""How fast one environment for all workers is: `python tests/benchmarks/xdist_speed.py [ROW...]`.

Every figure is the median of several measurements, interleaved with those it is compared to, for a
machine is never quiet. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
STEPS = 8
STEP_SECONDS = 0.5
CRITICAL_PATH = 2.0  # two chains of four steps
ALLOWED_OVERHEAD = 2.1
ALLOWED_RATIO = 1.5
TESTS = 200
INCREMENTS = 1_000
STARVING = 16


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    figure: str
    target: str
    reached: str

    def __str__(self) -> str:
        return f"| {self.what} | {self.figure} | {self.target} | {self.reached} |"


def _said(*, reached: bool) -> str:
    return "yes" if reached else "NO"


class Suite:
    """A project in a temporary folder."""

    def __init__(self, files: Mapping[str, str], *, plugins: tuple[str, ...]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.path = Path(self._folder.name)
        self._plugins = plugins
        for name, source in files.items():
            (self.path / name).write_text(textwrap.dedent(source))

    def run(self, workers: int) -> float:
        """Run the tests, which must pass; return the seconds."""
        history = self.path / "history.txt"
        history.unlink(missing_ok=True)
        plugins = [word for plugin in ("xdist", *self._plugins) for word in ("-p", plugin)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(self.path)]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", str(workers), *plugins],
            cwd=self.path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
        if ended.returncode:
            raise RuntimeError(ended.stdout + ended.stderr)
        return seconds

    def history(self) -> list[str]:
        """Return what steps and tests have written."""
        path = self.path / "history.txt"
        return path.read_text().splitlines() if path.exists() else []

    def close(self) -> None:
        """Remove the project."""
        self._folder.cleanup()


NOTES = """
from pathlib import Path

FILE = Path(__file__).with_name("history.txt")


def note(text):
    with FILE.open("a") as file:
        print(text, file=file)
"""

# --- The latency of a read -----------------------------------------------------------------------

LATENCY_CONFTEST = """
import pickle
import pytest

VALUES = {"small": {"host": "127.0.0.1", "port": 5432}, "large": b"x" * 1_000_000}


@pytest.mark.plan_step
def values(state):
    state["small"], state["large"] = VALUES["small"], VALUES["large"]


class Raw:
    '''The other side of the bare round trip: a pickle for a key.'''

    def __init__(self):
        self.channels = []
        self.data = {key: pickle.dumps(value, 5) for key, value in VALUES.items()}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node):
        channel = node.gateway.newchannel()
        channel.setcallback(lambda key: channel.send(self.data[key]))
        self.channels.append(channel)
        node.workerinput["raw"] = channel


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Raw())
"""
LATENCY_TEST = """
import json
import pickle
import time

import pytest
from notes import note


def timed(get, key, count):
    times = []
    for _ in range(count):
        began = time.perf_counter()
        get(key)
        times.append(time.perf_counter() - began)
    return times


@pytest.mark.plan("values")
@pytest.mark.parametrize(("key", "count"), [("small", 100), ("large", 10)])
def test_latency(plan, request, key, count):
    raw = request.config.workerinput["raw"]

    def round_trip(key):
        raw.send(key)
        return pickle.loads(raw.receive())

    assert round_trip(key) == plan.state[key]
    found = {"state": [], "raw": []}
    for _ in range(40):  # in turns: what slows the machine slows both
        found["state"] += timed(plan.state.__getitem__, key, count)
        found["raw"] += timed(round_trip, key, count)
    note(json.dumps({"key": key, **found}))
"""


def latency(repeat: int) -> Iterator[Row]:
    """Compare `plan.state[key]` in a worker to a bare round trip on the same gateway."""
    suite = Suite(
        {"conftest.py": LATENCY_CONFTEST, "test_latency.py": LATENCY_TEST, "notes.py": NOTES},
        plugins=("pytest_plan",),
    )
    runs: dict[str, list[tuple[float, float]]] = {"small": [], "large": []}
    for _ in range(repeat):
        suite.run(1)
        for line in suite.history():
            found = json.loads(line)
            medians = statistics.median(found["state"]), statistics.median(found["raw"])
            runs[found["key"]].append(medians)
    suite.close()
    names = {"small": "`plan.state[key]`, small value", "large": "the same, 1 MB"}
    for key, measured in runs.items():
        state, raw, ratio = (
            statistics.median(values)
            for values in (
                [state for state, _ in measured],
                [raw for _, raw in measured],
                [state / raw for state, raw in measured],
            )
        )
        yield Row(
            f"{names[key]}, from a worker; raw execnet round trip of the pickle beside it",
            f"{state * 1e6:.0f} us; {raw * 1e6:.0f} us; ratio {ratio:.2f}",
            f"ratio at most {ALLOWED_RATIO}",
            _said(reached=ratio <= ALLOWED_RATIO),
        )


# --- A suite with an environment -----------------------------------------------------------------

_NAMES = [f"{chain}{number}" for chain in "ab" for number in range(STEPS // 2)]
_TEST = f"""
import time

import pytest


@pytest.mark.parametrize("number", range({TESTS}))
def test_it({{fixtures}}number):
    time.sleep(0.005)
"""
_TEST_WITH_ENVIRONMENT = _TEST.format(fixtures="".join(f"{name}, " for name in _NAMES))


def _needs(name: str) -> str:
    """Return the name of what comes before in the chain, nothing for the first."""
    number = int(name[1:])
    return f"{name[0]}{number - 1}" if number else ""


def _plan_conftest() -> str:
    steps = [
        f"@pytest.mark.plan_step(needs=())\ndef {name}({_needs(name)}):\n"
        f"    time.sleep({STEP_SECONDS})\n    note('provisioned')\n    yield '{name}'\n"
        "    note('cleaned')\n"
        for name in _NAMES
    ]
    return "import time\nimport pytest\nfrom notes import note\n\n" + "\n".join(steps)


def _fixture_conftest() -> str:
    fixtures = [
        f"@pytest.fixture(scope='session')\ndef {name}({_needs(name)}):\n"
        f"    time.sleep({STEP_SECONDS})\n    note('provisioned')\n    yield '{name}'\n"
        "    note('cleaned')\n"
        for name in _NAMES
    ]
    return "import time\nimport pytest\nfrom notes import note\n\n" + "\n".join(fixtures)


def _filelock_conftest() -> str:
    head = """
import json
import time

import pytest
from filelock import FileLock
from notes import note


def once(tmp_path_factory, name):
    root = tmp_path_factory.getbasetemp().parent
    file = root / f"{name}.json"
    with FileLock(f"{file}.lock"):
        if file.is_file():
            return json.loads(file.read_text())
        time.sleep(SECONDS)
        note("provisioned")
        file.write_text(json.dumps(name))
    return name
""".replace("SECONDS", str(STEP_SECONDS))
    fixtures = []
    for name in _NAMES:
        parameters = ", ".join(filter(None, ["tmp_path_factory", _needs(name)]))
        fixtures.append(
            f"@pytest.fixture(scope='session')\ndef {name}({parameters}):\n"
            f"    return once(tmp_path_factory, '{name}')\n"
        )
    return head + "\n" + "\n".join(fixtures)


def _shared_conftest() -> str:
    head = """
import time

from notes import note
from pytest_shared_session_scope import CleanupToken, SetupToken, shared_session_scope_json
"""
    fixtures = [
        f"@shared_session_scope_json()\ndef {name}({_needs(name)}):\n"
        "    data = yield\n"
        f"    if data is SetupToken.FIRST:\n        time.sleep({STEP_SECONDS})\n"
        f"        note('provisioned')\n        data = '{name}'\n"
        "    token = yield data\n"
        "    if token is CleanupToken.LAST:\n        note('cleaned')\n"
        for name in _NAMES
    ]
    return head + "\n\n" + "\n\n".join(fixtures)


SHARED = "pytest-shared-session-scope"


def _suites() -> dict[str, Suite]:
    test = {"test_it.py": _TEST_WITH_ENVIRONMENT, "notes.py": NOTES}
    suites = {
        "bare": Suite({"test_it.py": _TEST.format(fixtures="")}, plugins=()),
        "pytest-plan": Suite({"conftest.py": _plan_conftest(), **test}, plugins=("pytest_plan",)),
        "session fixtures": Suite({"conftest.py": _fixture_conftest(), **test}, plugins=()),
        "filelock recipe": Suite({"conftest.py": _filelock_conftest(), **test}, plugins=()),
    }
    if importlib.util.find_spec("pytest_shared_session_scope"):
        suites[SHARED] = Suite(
            {"conftest.py": _shared_conftest(), **test},
            plugins=("pytest_shared_session_scope.plugin",),
        )
    return suites


def environment(repeat: int) -> Iterator[Row]:
    """Run the same tests bare, with a plan, and with what people use instead."""
    suites = _suites()
    seconds: dict[str, list[float]] = {name: [] for name in suites}
    for _ in range(repeat):
        for name, suite in suites.items():
            seconds[name].append(suite.run(2))
    counts = {name: suite.history() for name, suite in suites.items()}
    for suite in suites.values():
        suite.close()
    what = f"{STEPS} steps of {STEP_SECONDS} s, {TESTS} tests of 5 ms, `-n 2`"
    bare = statistics.median(seconds["bare"])
    yield Row(f"{what}: bare", f"{bare:.2f} s", "", "")
    for name in [*list(suites)[1:], *({SHARED} - set(suites))]:
        if name not in suites:
            yield Row(f"the same: {name}", "not installed", "", "")
            continue
        extra = statistics.median(
            one - other for one, other in zip(seconds[name], seconds["bare"], strict=True)
        )
        made, cleaned = counts[name].count("provisioned"), counts[name].count("cleaned")
        figure = (
            f"{statistics.median(seconds[name]):.2f} s; bare + {extra:.2f} s; "
            f"{made} provisioned, {cleaned} cleaned"
        )
        is_ours = name == "pytest-plan"
        reached = extra <= ALLOWED_OVERHEAD and made == cleaned == STEPS
        yield Row(
            f"the same: {name}",
            figure,
            f"at most bare + {ALLOWED_OVERHEAD} s; {STEPS} and {STEPS}" if is_ours else "",
            _said(reached=reached) if is_ours else "",
        )


# --- Many workers at one key ---------------------------------------------------------------------

STARVATION_CONFTEST = """
import pytest
from notes import note


@pytest.mark.plan_step
def counter(state):
    state["sum"] = 0
    state["ready"] = 0
    yield
    note(f"sum {state['sum']}")
"""
STARVATION_TEST = f"""
import time

import pytest
from notes import note


def add(state, key):
    while True:
        value = state[key]
        if state.compare_and_swap(key, value, value + 1):
            return value + 1


@pytest.mark.plan("counter")
@pytest.mark.parametrize("worker", range({STARVING}))
def test_increments(plan, worker):
    if add(plan.state, "ready") == {STARVING}:
        plan.state["go"] = time.time()
    began = plan.state.wait_for("go")
    for _ in range({INCREMENTS}):
        add(plan.state, "sum")
    note(f"took {{time.time() - began}}")
"""


def starvation(repeat: int) -> Iterator[Row]:
    """Let 16 workers increment one key."""
    suite = Suite(
        {
            "conftest.py": STARVATION_CONFTEST,
            "test_increments.py": STARVATION_TEST,
            "notes.py": NOTES,
        },
        plugins=("pytest_plan",),
    )
    spreads: list[tuple[float, float]] = []
    is_exact = True
    for _ in range(repeat):
        suite.run(STARVING)
        history = [line.split() for line in suite.history()]
        took = sorted(float(value) for what, value in history if what == "took")
        spreads.append((took[0], took[-1]))
        is_exact = is_exact and ["sum", str(STARVING * INCREMENTS)] in history
    suite.close()
    first, last = (statistics.median(values) for values in zip(*spreads, strict=True))
    yield Row(
        f"{STARVING} workers, {INCREMENTS} `compare_and_swap` increments each",
        f"sum {'exact' if is_exact else 'WRONG'}; the first worker done after {first:.1f} s, "
        f"the last after {last:.1f} s",
        "sum exact; none starves (the last at most 3 x the first)",
        _said(reached=is_exact and last <= 3 * first),
    )


ROWS: Mapping[str, tuple[Callable[[int], Iterator[Row]], int]] = {
    "latency": (latency, 3),
    "environment": (environment, 5),
    "starvation": (starvation, 1),
}


def main() -> None:
    """Measure what the command line names, everything by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", nargs="*", help=f"which rows: {', '.join(ROWS)}; default: all")
    parser.add_argument("--repeat", type=int, help="how often each is measured")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    sys.stdout.write(f"load average before: {load:.1f} on {os.cpu_count()} cores\n\n")
    sys.stdout.write("| what | measured (median) | target | reached |\n|---|---|---|---|\n")
    for name in options.row or ROWS:
        measure, repeat = ROWS[name]
        for row in measure(options.repeat or repeat):
            sys.stdout.write(f"{row}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
