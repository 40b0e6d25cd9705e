"""Steps that are lost while workers run tests: the controller notices, and tells every worker."""

from __future__ import annotations

import json
import sys

import pytest

from tests.plugin.test_watching import _HELPERS, _SLEEPER, lost_lines
from tests.xdist.cluster import Cluster, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the helpers use pidfd_open")


@pytest.fixture
def sleeper(cluster: Cluster) -> Cluster:
    """A project with a step `service` that runs `sleep`, and `kill` in its tests."""
    cluster.write("helpers.py", _HELPERS)
    cluster.steps(_SLEEPER)
    return cluster


def test_workers_block_the_tests_that_have_not_begun(sleeper: Cluster) -> None:
    """One line, exit status 1; each worker runs at most the test that it had begun."""
    sleeper.tests("""
        import time
        from helpers import kill
        @pytest.mark.parametrize("number", range(25))
        def test_it(plan, service, number):
            if number == 8:
                kill(plan.state["pid"])
            until = time.monotonic() + 10
            while number == 8 and plan.results["service"].lost is None:
                assert time.monotonic() < until
                time.sleep(0.01)
            os.kill(plan.state["pid"], 0)  # as a client that finds no server
        """)  # fmt: skip
    result = sleeper.two("-rE", "--plan-report=r.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    counts = result.parseoutcomes()
    assert 1 <= counts["failed"] <= 3
    assert counts["errors"] == 1
    assert counts["passed"] + counts["failed"] + counts["blocked"] == 25
    assert len(lost_lines(result)) == 2
    assert lost_lines(result)[0].startswith("plan: service lost at TIME: 'sleep' died of signal 9")
    result.stdout.fnmatch_lines(["*- plan step 'service' lost -*"])
    (step,) = json.loads((sleeper.path / "r.json").read_text())["steps"]
    assert step["lost"]["status"] == -9


def test_the_line_comes_while_tests_run(sleeper: Cluster) -> None:
    """The controller writes it at once, although no test ends for some time."""
    sleeper.tests("""
        import time
        from helpers import kill
        def test_kills(plan, service): kill(plan.state["pid"])
        def test_waits():
            until = time.monotonic() + 30
            while not os.path.exists("seen"):
                assert time.monotonic() < until
                time.sleep(0.05)
        """)  # fmt: skip
    with sleeper.start("-n", "2") as live:
        wait_until(lambda: " lost at " in live.output())
        (sleeper.path / "seen").touch()
        result = live.end()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes() == {"passed": 2, "errors": 1}


def test_a_replacement_of_a_crashed_worker_knows_the_loss(sleeper: Cluster) -> None:
    """A worker that starts after the loss blocks the tests, and `plan.results` has the loss."""
    sleeper.steps(_SLEEPER, "@pytest.mark.plan_step(needs=())\ndef other(): pass")
    sleeper.tests("""
        import time
        from helpers import kill
        def test_kills(plan, service):
            kill(plan.state["pid"])
            until = time.monotonic() + 10
            while plan.results["service"].lost is None:
                assert time.monotonic() < until
                time.sleep(0.01)
            os._exit(1)
        @pytest.mark.plan("other")
        def test_results(plan): note(plan.results["service"].lost.status)
        def test_needs(service): note("ran")
        """)  # fmt: skip
    result = sleeper.apart("-n", "1")
    assert result.parseoutcomes() == {"failed": 1, "passed": 1, "errors": 1, "blocked": 1}
    assert sleeper.calls == ["-9"]


def test_a_loss_ends_a_run_that_ends_at_the_first_failure(sleeper: Cluster) -> None:
    """With `-x`, the tests that have not begun do not run."""
    sleeper.tests("""
        import time
        from helpers import kill
        def test_kills(plan, service): kill(plan.state["pid"])
        @pytest.mark.parametrize("number", range(40))
        def test_other(number):
            time.sleep(0.1)
            note("ran")
        """)  # fmt: skip
    result = sleeper.two("-x")
    assert result.ret != 0
    assert len(sleeper.calls) < 40
    assert len(lost_lines(result)) == 2
