"""Overlap: tests of workers begin while later steps are still being provisioned."""

from __future__ import annotations

import json

import pytest

from tests.plugin.project import plan_lines, refuses
from tests.xdist.cluster import Cluster, outcomes, wait_until

# Each step waits for a file that a test writes, so a run without overlap would fail.
STEPS = """
import time

def until(name, seconds=30):
    end = time.monotonic() + seconds
    while not os.path.exists(name) and time.monotonic() < end:
        time.sleep(0.01)
    assert os.path.exists(name), name

@pytest.mark.plan_step(needs=())
def quick(ctx):
    ctx.setenv("QUICK", ctx.step)
    yield "q"
    note("undo quick")

@pytest.mark.plan_step(needs=())
def slow(ctx, quick):
    ctx.wait_until(lambda: os.path.exists("free"), timeout="30s")
    ctx.wait_until(lambda: os.path.exists("used"), timeout="30s")
    ctx.sleep(0.05)  # an overlap of less than 0.01 s is not mentioned
    open("over", "w").close()
    ctx.setenv("SLOW", ctx.step)
    yield "s"
    note("undo slow")
"""
TESTS = """
import time
from pathlib import Path

def test_slow(slow):
    note("test_slow")
    assert (slow, os.environ["SLOW"], os.environ["QUICK"]) == ("s", "slow", "quick")

@pytest.mark.plan("slow")
def test_sees_results(plan):
    assert [str(plan.results[name].outcome) for name in ("quick", "slow")] == ["succeeded"] * 2

def test_free():
    note("test_free")
    Path("free").touch()
    assert "SLOW" not in os.environ

@pytest.mark.plan("quick")
def test_quick(plan, request):
    note("test_quick")
    assert str(plan.results["slow"].outcome) in ("pending", "running")
    assert "SLOW" not in os.environ
    with pytest.raises(pytest.fail.Exception, match="'slow' is still being provisioned: mark the"):
        request.getfixturevalue("slow")
    before = plan.results["slow"]
    Path("used").touch()
    while not Path("over").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    assert plan.results["slow"] == before  # results are those of when the test began
"""
MODES = ["load", "worksteal", "loadscope", "loadfile", "loadgroup"]


@pytest.mark.parametrize("mode", MODES)
def test_tests_begin_as_soon_as_their_own_steps_have_succeeded(cluster: Cluster, mode: str) -> None:
    """In each mode of xdist; each worker sees the variables of the steps that its tests need."""
    cluster.steps(STEPS)
    cluster.tests(TESTS, name="test_a.py")
    cluster.tests("def test_other(slow): pass", name="test_b.py")
    result = cluster.two("--plan-overlap", "--dist", mode, "--plan-report", "plan.json")
    result.assert_outcomes(passed=5)
    calls = cluster.calls
    assert calls.index("test_free") < calls.index("test_slow") > calls.index("test_quick")
    assert sorted(calls[-2:]) == ["undo quick", "undo slow"]
    assert calls[-2:] == ["undo slow", "undo quick"]
    lines = plan_lines(result)
    assert "plan: 1 of 5 tests begin now; 4 wait for their steps" in lines or any(
        line.startswith("plan: 2 of 5 tests begin now") for line in lines
    )
    result.stdout.fnmatch_lines(["critical path (*): quick > slow, *; tests ran during *s of it"])
    plan = json.loads((cluster.path / "plan.json").read_text())["plan"]
    assert plan == {"outcome": "succeeded", "overlap": True, "tests_before_ready": 2}


def test_every_worker_runs_its_tests_with_each(cluster: Cluster) -> None:
    """With `--dist each`, tests overlap in every worker, also after a crash."""
    cluster.steps(STEPS, _DIE)
    cluster.tests(
        """
        def test_slow(slow): note("slow")
        def test_free():
            open("free", "w").close()
            pytest.die()
            note("free")
        def test_quick(quick):
            open("used", "w").close()
            note("quick")
        """
    )
    result = cluster.two("--plan-overlap", "--dist", "each")
    result.assert_outcomes(passed=5, failed=1)
    assert sorted(cluster.calls[:-2]) == ["free", "quick", "quick", "slow", "slow"]


_DIE = """
def die():
    try:
        os.close(os.open("died", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os._exit(9)

pytest.die = die
"""


SEEN = {
    "free": [[], ["QUICK"], ["QUICK", "SLOW"]],
    "quick": [["QUICK"], ["QUICK", "SLOW"]],
    "slow": [["QUICK", "SLOW"]],
}


@pytest.mark.parametrize("mode", ["load", "worksteal"])
def test_workers_die_before_and_after_a_step_has_ended(cluster: Cluster, mode: str) -> None:
    """The test in which a worker died fails once, and every other test runs once."""
    cluster.steps(STEPS, _DIE.replace("die()", "die(name)").replace('"died"', "name"))
    cluster.tests(
        "def seen(): return [name for name in ('QUICK', 'SLOW') if name in os.environ]",
        *(
            f"""
            @pytest.mark.parametrize("n", range(10))
            def test_{name}s(n{takes}):
                note("{name}", n, *seen())
                if n == 4: pytest.die("died-{name}")
                open("{touch}", "w").close()
            """
            for name, takes, touch in (
                ("free", "", "free"),
                ("quick", ", quick", "used"),
                ("slow", ", slow", "over"),
            )
        ),
    )
    result = cluster.two("--plan-overlap", "--dist", mode)
    result.assert_outcomes(passed=27, failed=3)
    calls = [call for call in cluster.calls if not call.startswith("undo")]
    assert len(calls) == len(set(calls)) == 30
    # A replacement sees the variables of the steps that its own tests need, and no others.
    assert all(call.split()[2:] in SEEN[call.split()[0]] for call in calls)
    assert cluster.calls[-2:] == ["undo slow", "undo quick"]


def test_a_step_fails_while_tests_run(cluster: Cluster) -> None:
    """It is reported when it fails, its tests are blocked, and all other tests run.

    A failed test that needs no step and began before a step was up says which mark it may lack.
    """
    cluster.steps(
        STEPS.replace('"over", "w").close()', '"over", "w").close(); raise OSError("full")')
    )
    cluster.tests(
        TESTS,
        """
        def test_undeclared():
            Path("free").touch()
            assert "SLOW" in os.environ
        """,
    )
    result = cluster.apart("-n", "1", "--plan-overlap")
    assert outcomes(result) == {"passed": 2, "failed": 1, "blocked": 2, "errors": 1}
    output = result.stdout.str()
    assert output.index("slow   FAILED") < output.index("FAILURES")
    result.stdout.fnmatch_lines(
        ["this test needs no step and began before *'slow' w* up; if it uses *, mark it with *"]
    )
    assert "undo quick" in cluster.calls


def test_with_maxfail_a_failed_step_ends_the_tests(cluster: Cluster) -> None:
    """It counts when it fails; no further test begins, and what was provisioned is undone."""
    cluster.steps(STEPS, '@pytest.mark.plan_step(needs=())\ndef bad(): until("free"); 1 / 0')
    cluster.tests(
        """
        def test_bad(bad): note("test_bad")
        def test_free(): open("free", "w").close()
        """,
        *(f"def test_{n}(): import time; time.sleep(0.3); note('late', {n})" for n in range(100)),
    )
    result = cluster.two("--plan-overlap", "-x")
    assert result.ret == 2
    assert len([call for call in cluster.calls if call.startswith("late")]) < 50
    assert "test_bad" not in cluster.calls


def test_a_failed_test_stops_the_steps_with_maxfail(cluster: Cluster) -> None:
    """A running step is cancelled, what it deferred is undone, and the exit status is 2."""
    cluster.steps(
        STEPS,
        """
        @pytest.mark.plan_step(needs=())
        def endless(ctx, quick):
            ctx.defer(note, "undo endless")
            open("endless", "w").close()
            ctx.sleep(600)

        def pytest_plan_cleanup(reason): note("reason", reason)
        """,
    )
    cluster.tests(
        """
        def test_endless(endless): pass
        def test_fails():
            from conftest import until
            until("endless")
            assert False
        """
    )
    result = cluster.two("--plan-overlap", "-x", "--plan-report", "plan.json")
    assert result.ret == 2
    assert cluster.calls == ["reason failure", "undo endless", "undo quick"]
    steps = json.loads((cluster.path / "plan.json").read_text())["steps"]
    assert [(step["name"], step["outcome"], step["reason"]) for step in steps[1:]] == [
        ("endless", "cancelled", "the session ends: stopping after 1 failures")
    ]
    assert outcomes(result) == {"failed": 1}


ENDLESS = """
@pytest.mark.plan_step(needs=())
def endless(ctx, quick):
    ctx.defer(note, "undo endless")
    open("endless", "w").close()
    ctx.sleep(600)
"""
WAITING = """
def test_endless(endless): pass
def test_waits():
    open("begun", "w").close()
    import time; time.sleep(600)
def test_free(): pass
"""
NOTICED = """
def pytest_runtest_logstart(nodeid):
    if "test_waits" in nodeid and "PYTEST_XDIST_WORKER" not in os.environ:
        open("noticed", "w").close()
"""


def test_the_limit_ends_steps_and_tests(cluster: Cluster) -> None:
    """While both run: the step has timed out, tests that had not begun are counted."""
    cluster.steps(STEPS, ENDLESS)
    cluster.tests(WAITING)
    result = cluster.two("--plan-overlap", "--plan-limit", "4s")
    assert result.ret == 1
    assert sorted(cluster.calls) == ["undo endless", "undo quick"]
    assert "TIMED OUT" in result.stdout.str()
    result.stdout.fnmatch_lines(["*1 test was not run: the plan's limit of 4.0* has passed"])


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 2), ("SIGTERM", 143)])
def test_a_signal_ends_steps_and_tests(cluster: Cluster, name: str, status: int) -> None:
    """While both run: the step is cancelled, and cleanup is complete."""
    import os
    import signal
    import time

    reason = "def pytest_plan_cleanup(reason): note('reason', reason)"
    cluster.steps(STEPS, ENDLESS, NOTICED, reason)
    cluster.tests(WAITING)
    with cluster.start("-n", "2", "--plan-overlap") as live:
        for file in ("endless", "noticed"):
            wait_until((cluster.path / file).exists)
        time.sleep(0.02)  # shorter times are not worth a mention
        os.kill(live.pid, getattr(signal, name))
        result = live.end()
    assert result.ret == status
    assert cluster.calls == ["reason cancelled", "undo endless", "undo quick"]
    result.stdout.fnmatch_lines(["endless *cancelled*", "*; tests ran during *"])


def test_the_reaper_cleans_up_after_sigkill(cluster: Cluster) -> None:
    """While both run: durable cleanups run, and no worker is left."""
    cluster.steps(
        STEPS.replace('yield "q"\n    note("undo quick")', "ctx.defer(note, 'undo quick')"),
        ENDLESS,
    )
    cluster.tests(WAITING)
    with cluster.start("-n", "2", "--plan-overlap") as live:
        for file in ("endless", "begun"):
            wait_until((cluster.path / file).exists)
        live.kill()
        wait_until(lambda: cluster.calls == ["undo endless", "undo quick"])
        live.end()


def test_stages_alone_and_instances(cluster: Cluster) -> None:
    """Overlap works inside a stage; tests that run alone wait for all steps of their stage."""
    cluster.steps(
        STEPS,
        """
        @pytest.mark.plan_step(per="worker")
        def database(ctx, slow):
            ctx.setenv("DATABASE", ctx.worker)
            note("made", ctx.step)
            return ctx.worker

        @pytest.mark.plan_step(after_tests=True)
        def upgraded(slow): note("upgraded")
        """,
    )
    cluster.tests(
        TESTS,
        """
        WORKER = os.environ.get("PYTEST_XDIST_WORKER")

        @pytest.mark.parametrize("n", range(6))
        def test_database(database, n): assert database == os.environ["DATABASE"] == WORKER

        @pytest.mark.plan_alone
        def test_alone(): note("test_alone")

        def test_upgraded(upgraded): note("test_upgraded")
        """,
    )
    result = cluster.two("--plan-overlap")
    result.assert_outcomes(passed=12)
    calls = [call for call in cluster.calls if not call.startswith("undo")]
    assert calls[-3:] == ["test_alone", "upgraded", "test_upgraded"]
    assert calls.index("made database@gw1") < calls.index("test_alone")


def test_what_cannot_overlap_is_said(cluster: Cluster) -> None:
    """A scheduler that cannot be used in waves is refused; `--plan-share` gets one line."""
    cluster.steps("@pytest.mark.plan_step\ndef net(): pass")
    cluster.tests("def test_net(net): pass\ndef test_free(): pass")
    cluster.write("pytest.ini", "[pytest]\nplan_overlap = true\n")
    result = cluster.two("--plan-share", "local")
    result.assert_outcomes(passed=2)
    assert (
        "plan: plan_overlap in pytest.ini does nothing with --plan-share: tests begin after the "
        "last step"
    ) in plan_lines(result)
    cluster.write(
        "one.py",
        """
        from xdist.scheduler import LoadScheduling
        made = []

        def pytest_xdist_make_scheduler(config, log):
            made.append(made[0] if made else LoadScheduling(config, log))
            return made[-1]
        """,
    )
    cluster.steps("import time\n@pytest.mark.plan_step\ndef net(): time.sleep(2)")
    refused = cluster.two("-p", "one", env={"PYTHONPATH": str(cluster.path)})
    refuses(refused, "plan_overlap in pytest.ini gives tests out in waves", "LoadScheduling")
