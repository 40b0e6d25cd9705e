"""Stages under pytest-xdist: tests between steps, and tests that run alone."""

from __future__ import annotations

import pytest

from tests.plugin.project import plan_lines, refuses
from tests.xdist.cluster import Cluster
from tests.xdist.stages import CONFTEST, Drawn, DrawnStep, DrawnTest, violations

STEPS = (
    DrawnStep("app", (), after=False),
    DrawnStep("upgraded", ("app",), after=True),
    DrawnStep("again", ("upgraded",), after=True),
)
MODES = ["load", "loadscope", "loadfile", "loadgroup", "worksteal"]


def shop(*, dies: tuple[str, ...] = (), fails: tuple[str, ...] = ()) -> Drawn:
    """Return a project with three stages, whose tests are in no particular order."""
    tests = []
    for number, needs in enumerate(["again", "app", "upgraded", "", "app", "upgraded", "app"]):
        name = f"test_{number}"
        alone = number in (4, 5)
        tests.append(
            DrawnTest(
                name, (needs,) if needs else (), alone, number % 2, name in dies, name in fails
            )
        )
    return Drawn(STEPS, tuple(tests))


@pytest.mark.parametrize(("mode", "workers"), [*((mode, "3") for mode in MODES), ("load", "1")])
def test_stages_in_each_mode(cluster: Cluster, mode: str, workers: str) -> None:
    """No test or step begins too early, and each test runs once, in a scheduler of the user's."""
    drawn = shop()
    drawn.write(cluster)
    result = cluster.apart("-n", workers, "--dist", mode, "-v")
    result.assert_outcomes(passed=7)
    assert violations(drawn, cluster.calls) == []
    kind = {"load": "Load", "worksteal": "WorkStealing"}.get(mode, f"Load{mode[4:].title()}")
    result.stdout.fnmatch_lines([f"scheduling tests via {kind}Scheduling"])
    lines = [line for line in plan_lines(result) if "stage" in line]
    assert lines == [
        "plan: stage 2 of 3: 4 tests have ended; provisioning upgraded",
        "plan: stage 3 of 3: 6 tests have ended; provisioning again",
    ]
    # The fixtures of modules end before the steps of the next stage begin.
    calls = cluster.calls
    before = calls[: calls.index("step upgraded")]
    assert before.count("module test_0.py") >= 1
    assert before[-1].startswith(("module", "end"))


def test_each_runs_every_test_in_every_worker(cluster: Cluster) -> None:
    """Also after a crash; tests that should run alone do so in their own worker only."""
    drawn = shop(dies=("test_1", "test_6", "test_4", "test_2", "test_0"))
    drawn.write(cluster)
    result = cluster.apart("-n", "2", "--dist", "each", "-W", "default")
    result.assert_outcomes(passed=9, failed=5, warnings=1)
    assert violations(drawn, cluster.calls, times=2, alone=False) == []
    cluster.two("--dist", "each", "-k", "test_3").assert_outcomes(passed=2)


def test_crashes_in_every_stage(cluster: Cluster) -> None:
    """A replacement joins the running stage; the tests in which workers died are not repeated."""
    drawn = shop(dies=("test_1", "test_4", "test_2", "test_0"))
    drawn.write(cluster)
    result = cluster.two()
    result.assert_outcomes(passed=3, failed=4)
    assert violations(drawn, cluster.calls) == []


def test_without_replacements_later_stages_are_not_reached(cluster: Cluster) -> None:
    """Their steps never begin, and what was provisioned is undone."""
    shop(dies=("test_1",)).write(cluster)
    result = cluster.apart("-n", "1", "--max-worker-restart", "0")
    assert result.ret != 0
    calls = cluster.calls
    assert (calls.count("step app"), calls.count("undo app")) == (1, 1)
    assert "step upgraded" not in calls


def test_a_failed_test_stops_the_next_stage_only_with_maxfail(cluster: Cluster) -> None:
    """As in one process."""
    drawn = shop(fails=("test_1",))
    drawn.write(cluster)
    assert cluster.two("-x").ret == 2
    assert "step upgraded" not in cluster.calls
    (cluster.path / "calls.txt").unlink()
    cluster.two().assert_outcomes(passed=6, failed=1)
    assert violations(drawn, cluster.calls) == []
    (cluster.path / "calls.txt").unlink()
    cluster.two("--lf").assert_outcomes(failed=1)
    assert "step upgraded" not in cluster.calls


def test_a_failed_step_blocks_the_tests_of_its_stage_and_later_ones(cluster: Cluster) -> None:
    """Earlier results stay."""
    shop().write(cluster)
    source = (cluster.path / "conftest.py").read_text()
    (cluster.path / "conftest.py").write_text(
        source.replace("def upgraded(ctx): ", "def upgraded(ctx): raise ValueError('no upgrade'); ")
    )
    result = cluster.two()
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*no upgrade*", "*4 passed, 1 error, 3 blocked*"])


def test_other_plugins_that_sort_and_repeat_tests(cluster: Cluster) -> None:
    """pytest-randomly sorts within stages; pytest-rerunfailures repeats within a stage."""
    drawn = shop(dies=("test_1",), fails=("test_3",))
    drawn.write(cluster)
    result = cluster.two("-p", "randomly", "-p", "rerunfailures", "--reruns", "1", "-W", "default")
    assert "1 failed, 6 passed" in result.stdout.str()
    calls = [call for call in cluster.calls if "test_3" not in call and "test_1" not in call]
    kept = Drawn(drawn.steps, tuple(t for t in drawn.tests if t.name not in ("test_1", "test_3")))
    assert violations(kept, calls) == []
    assert cluster.calls.count("begin test_3") == 2


def test_the_first_step_after_tests_may_be_in_a_subdirectory(cluster: Cluster) -> None:
    """The controller loads its conftest only when workers have collected."""
    cluster.steps(CONFTEST, STEPS[0].source)
    cluster.steps(STEPS[1].source, name="sub/conftest.py")
    cluster.tests("def test_0(upgraded): pass", name="sub/test_sub.py")
    cluster.tests("def test_1(app): pass\ndef test_2(app): pass")
    drawn = Drawn(
        STEPS[:2],
        (
            DrawnTest("test_0", ("upgraded",)),
            DrawnTest("test_1", ("app",)),
            DrawnTest("test_2", ("app",)),
        ),
    )
    cluster.two().assert_outcomes(passed=3)
    assert violations(drawn, cluster.calls) == []


def test_tests_run_alone_in_a_project_without_steps(cluster: Cluster) -> None:
    """All tests may be marked, and a worker may die in one."""
    cluster.steps(CONFTEST)
    body = "    import time; time.sleep(0.05)"
    alone = [f"@pytest.mark.plan_alone\ndef test_{number}():\n{body}" for number in range(4)]
    others = [f"def test_{number}():\n{body}" for number in range(4, 10)]
    names = [f"test_{number}" for number in range(10)]
    drawn = Drawn((), tuple(DrawnTest(name, (), name < "test_4") for name in names))
    cluster.tests("\n\n".join([*alone, *others]))
    cluster.apart("-n", "3").assert_outcomes(passed=10)
    assert violations(drawn, cluster.calls) == []
    cluster.tests("\n\n".join(alone).replace(body, "    pytest.die('test_1')", 1))
    (cluster.path / "calls.txt").unlink()
    cluster.apart("-n", "3").assert_outcomes(passed=3, failed=1)
    mortal = tuple(DrawnTest(f"test_{number}", (), alone=True) for number in range(1, 4))
    calls = [call for call in cluster.calls if "test_0" not in call]
    assert violations(Drawn((), mortal), calls) == []


RECORDS = """
import json
from xdist.workermanage import WorkerController

send = WorkerController.send_runtest_some

def send_runtest_some(node, indices):
    with open("sent.txt", "a") as file:
        print(json.dumps([node.gateway.id, list(indices)]), file=file)
    send(node, indices)

WorkerController.send_runtest_some = send_runtest_some
"""


def test_one_stage_is_distributed_as_without_the_plugin(cluster: Cluster) -> None:
    """Workers get the same tests in the same order, from the scheduler that the user has chosen."""
    cluster.write("records.py", RECORDS)
    cluster.steps("@pytest.mark.plan_step\ndef app(): pass")
    cluster.tests("@pytest.mark.parametrize('n', range(30))\ndef test_it(n): pass")

    def sent(*args: str) -> str:
        (cluster.path / "sent.txt").unlink(missing_ok=True)
        cluster.bare("-p", "xdist", "-p", "records", "-n", "1", *args).assert_outcomes(passed=30)
        return (cluster.path / "sent.txt").read_text()

    for mode in ("load", "loadscope", "worksteal"):
        assert sent("--dist", mode) == sent("--dist", mode, "-p", "pytest_plan")


UNUSABLE = """
from xdist.scheduler import LoadScheduling

{before}
def pytest_xdist_make_scheduler(config, log):
    {body}
"""


@pytest.mark.parametrize(
    ("before", "body"),
    [
        ("ONE = []", "ONE.append(LoadScheduling(config, log)); return ONE[0]"),
        ("", "return Other(LoadScheduling(config, log))"),
    ],
    ids=["same object", "part of the protocol"],
)
def test_a_scheduler_that_cannot_be_used_in_stages(
    cluster: Cluster, before: str, body: str
) -> None:
    """It is a usage error that names the scheduler and the steps; one stage still works."""
    other = """
class Other:
    def __init__(self, inner): self._inner = inner
    def __getattr__(self, name):
        if name == "mark_test_pending": raise AttributeError(name)
        return getattr(self._inner, name)
"""
    hook = UNUSABLE.format(before=before or other, body=body)
    shop().write(cluster)
    source = (cluster.path / "conftest.py").read_text()
    (cluster.path / "conftest.py").write_text(source + hook)
    refuses(
        cluster.two(),
        "steps wait for tests: 'upgraded' (conftest.py:",
        "'again' (conftest.py:",
        "which LoadScheduling is not" if before else "which Other is not",
    )
    cluster.two("-k", "test_6").assert_outcomes(passed=1)
