"""Tests in workers that stop and start programs of steps: `plan.program`."""

from __future__ import annotations

import pytest

from tests.plugin.test_programs import HELPERS, QUIET, SERVER, SERVICE
from tests.xdist.cluster import Cluster, wait_until

STOPS_AND_STARTS = """
from helpers import ask, is_there

def test_it(plan, web):
    program = plan.program("web")
    first = ask(web)
    program.kill()
    assert not is_there(web)
    program.stop()
    program.start()
    assert ask(web).split()[1:] == first.split()[1:]
    with pytest.raises(RuntimeError, match="is running; stop it first"):
        program.start()
    with pytest.raises(KeyError) as caught:
        plan.program("web", "nginx")
    assert "its programs: 'python" in caught.value.args[0]
"""


@pytest.fixture
def services(cluster: Cluster) -> Cluster:
    """A project with a server and helpers."""
    cluster.write("server.py", SERVER)
    cluster.write("helpers.py", HELPERS)
    return cluster


def test_a_worker_stops_and_starts_a_program(services: Cluster) -> None:
    """The controller does it, with the same result as in one process."""
    services.steps(SERVICE)
    services.tests(STOPS_AND_STARTS)
    result = services.apart("-n", "1")
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    assert "lost" not in result.stdout.str()


def test_several_workers_are_refused(services: Cluster) -> None:
    """The message says why, and what to do; the program is left alone."""
    services.steps(QUIET)
    services.tests(
        """
        from helpers import ask

        def test_it(plan, web):
            with pytest.raises(RuntimeError) as caught:
                plan.program("web")
            assert str(caught.value) == (
                "a test cannot stop or start programs of step 'web', because tests of 2 workers "
                "use them at the same time; mark the test with @pytest.mark.plan_alone, or run it "
                "without -n"
            )
            assert ask(web)
        """
    )
    services.two().assert_outcomes(passed=1)


def test_a_test_that_runs_alone_stops_and_starts_a_program(services: Cluster) -> None:
    """No other test uses the program at that time, in any worker; `--dist each` stays refused."""
    services.steps(SERVICE)
    alone = STOPS_AND_STARTS.replace("def test_it", "@pytest.mark.plan_alone\ndef test_it")
    uses = """
        import time

        @pytest.mark.parametrize("number", range(6))
        def test_use(web, number):
            assert is_there(web)
            time.sleep(0.1)
            assert is_there(web)
        """
    services.tests(alone, uses)
    result = services.two()
    result.assert_outcomes(passed=7)
    assert "lost" not in result.stdout.str()
    result = services.two("--dist", "each", "-W", "default", "-k", "not use")
    result.assert_outcomes(failed=2, warnings=1)
    result.stdout.fnmatch_lines(["*tests marked plan_alone do not run alone with --dist each*"])


def test_what_a_test_leaves_stopped_is_started_again(services: Cluster) -> None:
    """Also if its worker dies."""
    services.steps(QUIET)
    services.tests(
        """
        import time
        from helpers import is_there

        def test_stops(plan):
            plan.program("web").stop()

        def test_next(web):
            assert is_there(web)

        def test_dies(plan):
            plan.program("web").stop()
            os._exit(1)

        def test_last(web):
            until = time.monotonic() + 20
            while not is_there(web):
                assert time.monotonic() < until
                time.sleep(0.05)
        """
    )
    result = services.apart("-n", "1")
    result.assert_outcomes(passed=3, failed=1)
    assert "plan: web lost" not in result.stdout.str()


def test_a_program_that_cannot_be_started_again_is_lost(services: Cluster) -> None:
    """The worker hears of it before the next test."""
    services.steps(QUIET)
    services.tests(
        """
        import pathlib

        def test_stops(plan):
            plan.program("web").stop()
            pathlib.Path("server.py").write_text("raise SystemExit(5)")

        def test_next(web):
            pass

        def test_last():
            pass
        """
    )
    result = services.apart("-n", "1")
    result.stdout.fnmatch_lines(["plan: web lost at *was not started again: *"])
    result.stdout.fnmatch_lines(["*2 passed, 1 error, 1 blocked*"])


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_program_that_was_started_again_is_ended_after_sigkill(
    services: Cluster, workers: str
) -> None:
    """The reaper knows its tree."""
    services.steps(QUIET)
    services.tests(
        """
        import time
        from helpers import ask

        def test_it(plan, web):
            plan.program("web").stop()
            plan.program("web").start()
            note("pid", ask(web).split()[0])
            time.sleep(600)
        """
    )
    with services.start("-n", workers) as live:
        wait_until(lambda: services.notes("pid"))
        live.kill()
        live.end()  # fails if a process is left
