"""Projects with stages that workers run, and a checker of what has happened in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.xdist.cluster import Cluster, outcomes

# `stamp` writes one line at a time, so that the lines of all processes are in order.
CONFTEST = """
import os

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "master")

def die(name):
    try:
        os.close(os.open(f"died-{name}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os._exit(9)

pytest.die = die
pytest.own = {"shared", WORKER}

@pytest.fixture(scope="module", autouse=True)
def module(request):
    note("set-up", request.node.name)
    yield
    note("module", request.node.name)

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    note("begin", item.name.partition("@")[0])
    return (yield)

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item):
    try:
        return (yield)
    finally:
        note("end", item.name.partition("@")[0])
"""


class DrawnStep(NamedTuple):
    """A step of a project.

    Attributes:
        name: its name.
        needs: the steps that it needs.
        after: whether it waits for tests.
        per: "run" or "worker".
        seconds: how long it takes.
    """

    name: str
    needs: tuple[str, ...]
    after: bool
    per: str = "run"
    seconds: float = 0.0

    @property
    def source(self) -> str:
        """The source of the step."""
        options = f"needs={self.needs!r}, after_tests={self.after}, per={self.per!r}"
        body = "note('step', ctx.step); yield ctx.worker or 'shared'; note('undo', ctx.step)"
        body = f"ctx.sleep({self.seconds}); {body}" if self.seconds else body
        return f"@pytest.mark.plan_step({options})\ndef {self.name}(ctx): {body}"


class DrawnTest(NamedTuple):
    """A test of a project.

    Attributes:
        name: its name.
        needs: the steps that it needs.
        alone: whether it runs alone.
        module: the number of its module.
        dies: whether it ends its worker, the first time that it runs.
        fails: whether it fails.
        shares: whether it uses the fixture of its module, if that is not automatic.
    """

    name: str
    needs: tuple[str, ...]
    alone: bool = False
    module: int = 0
    dies: bool = False
    fails: bool = False
    shares: bool = False

    @property
    def source(self) -> str:
        """The source of the test."""
        marks = [f"@pytest.mark.plan{self.needs!r}"] if self.needs else []
        marks += ["@pytest.mark.plan_alone"] if self.alone else []
        values = ", ".join(f"plan.state[{need!r}]" for need in self.needs)
        own = f"assert {{{values}}} <= pytest.own; " if values else ""
        body = f"pytest.die({self.name!r})" if self.dies else f"assert not {self.fails}"
        takes = ", ".join(["plan"] * bool(own) + ["module"] * self.shares)
        return "\n".join([*marks, f"def {self.name}({takes}): {own}{body}"])


class Drawn(NamedTuple):
    """A project with steps and tests."""

    steps: tuple[DrawnStep, ...]
    tests: tuple[DrawnTest, ...]

    def write(self, cluster: Cluster, *, autouse: bool = True) -> None:
        """Write the project; with `autouse`, every test uses the fixture of its module."""
        cluster.steps(
            CONFTEST.replace("autouse=True", f"autouse={autouse}"),
            *(step.source for step in self.steps),
        )
        for number in {test.module for test in self.tests}:
            own = [test.source for test in self.tests if test.module == number]
            cluster.tests("\n\n".join(own), name=f"test_{number}.py")

    def rank(self, name: str) -> int:
        """Return how many times tests come before a step."""
        step = next(step for step in self.steps if step.name == name)
        return max(map(self.rank, step.needs), default=0) + step.after

    def stage(self, test: DrawnTest) -> int:
        """Return the rank of the stage of a test."""
        return max(map(self.rank, test.needs), default=0)


def check_run(cluster: Cluster, drawn: Drawn, mode: str, workers: int, *options: str) -> None:
    """Run a project, and check that no promise is broken and that each test counts once.

    Args:
        cluster: the folder of the project, which is written already.
        drawn: the project.
        mode: a mode of pytest-xdist.
        workers: the number of workers.
        options: further options of pytest.
    """
    # A test that ends its worker is repeated by nobody, and each death allows one replacement.
    xdist = ("-n", str(workers), "--dist", mode, "-W", "default", "--max-worker-restart", "99")
    result = cluster.apart(*options, *xdist)
    times = workers if mode == "each" else 1
    assert violations(drawn, cluster.calls, times=times, alone=mode != "each") == []
    counts = outcomes(result)
    failed = sum(times if test.fails else test.dies for test in drawn.tests)
    assert counts.get("failed", 0) == failed
    assert counts.get("passed", 0) == times * len(drawn.tests) - failed


def violations(
    drawn: Drawn, calls: Sequence[str], *, times: int = 1, alone: bool = True
) -> list[str]:
    """Return which promises a run has broken.

    Args:
        drawn: the project.
        calls: what the run has noted.
        times: how many workers run each test.
        alone: whether tests that are marked run alone.
    """
    stages = {test.name: drawn.stage(test) for test in drawn.tests}
    marked = {test.name for test in drawn.tests if test.alone} if alone else set()
    mortal = {test.name for test in drawn.tests if test.dies}
    found: list[str] = []
    begun: list[str] = []
    running: list[str] = []
    left = {test.name: times for test in drawn.tests}  # runs that have not ended
    provisioned: list[str] = []
    for call in calls:
        what, name = call.split()
        if what == "begin":
            found += [f"{name} began before {one} ended" for one in _before(stages, left, name)]
            others = [one for one in running if one in marked or name in marked]
            found += [f"{name} overlaps {one}" for one in others]
            found += [
                f"{name} began without {need}"
                for need in _needs(drawn, name)
                if need not in provisioned
            ]
            begun.append(name)
            if name in mortal and begun.count(name) == 1:
                left[name] -= 1
            else:
                running.append(name)
        elif what == "end":
            running.remove(name)
            left[name] -= 1
        elif what == "step":
            step = name.partition("@")[0]
            rank = drawn.rank(step)
            early = [one for one, stage in stages.items() if stage < rank and left[one] > 0]
            found += [f"step {name} began before {one} ended" for one in early]
            provisioned.append(step)
    found += [
        f"{name} ran {begun.count(name)} times" for name in stages if begun.count(name) != times
    ]
    made = {call.removeprefix("step ") for call in calls if call.startswith("step ")}
    for name in sorted(made):
        if (calls.count(f"step {name}"), calls.count(f"undo {name}")) != (1, 1):
            found.append(f"step {name} was not provisioned and undone exactly once")
    return found


def _before(stages: dict[str, int], left: dict[str, int], name: str) -> list[str]:
    return [one for one, stage in stages.items() if stage < stages[name] and left[one] > 0]


def _needs(drawn: Drawn, name: str) -> tuple[str, ...]:
    return next(test.needs for test in drawn.tests if test.name == name)
