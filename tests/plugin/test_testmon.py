"""pytest-testmon runs the tests again that need a step whose code has changed."""

from __future__ import annotations

import pytest

from tests.plugin.project import Project

pytest.importorskip("testmon")

RUN = ("-p", "testmon.pytest_testmon", "--testmon", "-v")
STEPS = """
import threading
import pytest
from pytest_plan import Step

@pytest.mark.plan_step(needs=())
def data():
    import seeding
    return seeding.seed()

@pytest.mark.plan_step(needs=("data",))
async def shop(data):
    import selling
    return selling.Shop(data).open()

@pytest.mark.plan_step(needs=(), eager=True)
class Network(Step):
    def exec(self):
        import wiring
        return wiring.wire()

@pytest.mark.plan_step(needs=())
def threaded():
    import background
    thread = threading.Thread(target=background.work)
    thread.start()
    thread.join()
    yield
"""
FILES = {
    "seeding.py": "def seed():\n    return ['lamp']\n\ndef unused():\n    return 1\n",
    "selling.py": "class Shop:\n    def __init__(self, data):\n        self.data = data\n"
    "    def open(self):\n        return len(self.data)\n",
    "wiring.py": "SPEED = 1\n\ndef wire():\n    return SPEED\n",
    "background.py": "def work():\n    return 1\n",
}
TESTS = """
import pytest

def test_data(data): pass
def test_shop(shop): pass
def test_network(network): pass
def test_threaded(threaded): pass
def test_without(): pass

@pytest.mark.plan("data")
def test_marked(): pass
"""
ALL = {"test_data", "test_shop", "test_network", "test_threaded", "test_without", "test_marked"}
# What is changed -> the tests that run again.
CHANGES = {
    ("seeding.py", "['lamp']", "['desk']"): {"test_data", "test_shop", "test_marked"},
    ("selling.py", "len(self.data)", "sum(map(len, self.data))"): {"test_shop"},
    ("wiring.py", "SPEED = 1", "SPEED = 2"): {"test_network"},
    ("wiring.py", "return SPEED", "return -SPEED"): {"test_network"},
    # On a thread of its own, the code may be of any step.
    ("background.py", "return 1", "return 2"): ALL - {"test_without"},
    ("seeding.py", "return 1", "return 2"): set(),
    ("conftest.py", "selling.Shop(data)", "selling.Shop(data[:])"): {"test_shop"},
}


def write(project: Project) -> None:
    """Write the project."""
    project.write("conftest.py", STEPS)
    project.write("test_it.py", TESTS)
    for name, text in FILES.items():
        project.write(name, text)


def change(project: Project, name: str, old: str, new: str) -> None:
    """Replace a part of a file."""
    text = (project.path / name).read_text()
    assert text.count(old) == 1
    project.write(name, text.replace(old, new))


def ran(result: pytest.RunResult) -> set[str]:
    """Return the names of the tests that passed in a run with `-v`."""
    assert result.ret == 0
    lines = (line for line in result.outlines if "PASSED" in line and "::" in line)
    return {line.partition("::")[2].split()[0] for line in lines}


@pytest.fixture(scope="module")
def recorded() -> dict[str, bytes]:
    """The files that pytest-testmon has written in a first run, by name; empty before it."""
    return {}


@pytest.fixture
def known(project: Project, recorded: dict[str, bytes]) -> Project:
    """A project whose tests have all run once."""
    write(project)
    if not recorded:
        assert ran(project.run_apart(*RUN)) == ALL
        recorded.update((path.name, path.read_bytes()) for path in project.path.glob(".testmon*"))
    for name, data in recorded.items():
        (project.path / name).write_bytes(data)
    return project


@pytest.mark.parametrize("changed", CHANGES, ids=lambda changed: f"{changed[0]}: {changed[2]}")
def test_change_selects_the_tests_that_need_the_step(
    known: Project, changed: tuple[str, str, str]
) -> None:
    """Exactly the tests run again that need a step that has run the changed function."""
    change(known, *changed)
    assert ran(known.run_apart(*RUN)) == CHANGES[changed]


def test_nothing_runs_again_without_a_change(known: Project) -> None:
    """If nothing has changed, no test and no step is run."""
    result = known.run_apart(*RUN)
    assert ran(result) == set()
    result.stdout.no_fnmatch_line("plan: data *")


def test_failed_step_runs_again_once_it_is_fixed(project: Project) -> None:
    """A test that was blocked by a step runs again, as a failed one does."""
    write(project)
    change(project, "seeding.py", "return ['lamp']", "raise RuntimeError")
    project.run_apart(*RUN)
    change(project, "seeding.py", "raise RuntimeError", "return ['lamp']")
    assert {"test_data", "test_shop"} <= ran(project.run_apart(*RUN))


def test_reading_only_changes_nothing(project: Project) -> None:
    """With `--testmon-nocollect` nothing is recorded, and there is no warning."""
    write(project)
    assert ran(project.run_apart(*RUN, "--testmon-nocollect")) == ALL
    assert ran(project.run_apart(*RUN, "--testmon-nocollect")) == ALL


def test_other_internals_cause_a_warning(project: Project) -> None:
    """With a version that works in another way, one warning says what is missing."""
    write(project)
    project.write("newer.py", """
    import pytest

    @pytest.hookimpl(trylast=True)
    def pytest_configure(config):
        config.pluginmanager.unregister(name="TestmonCollect")
    """)  # fmt: skip
    result = project.pytester.runpytest_subprocess("-p", "pytest_plan", *RUN, "-p", "newer")
    assert ran(result) == ALL
    result.stdout.fnmatch_lines(["*PytestWarning: this version of pytest-testmon is not known: *"])
    result.assert_outcomes(passed=6, warnings=1)
