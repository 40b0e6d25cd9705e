"""In workers, a failing test shows what the logs of the steps it needs have gained."""

from __future__ import annotations

import re

import pytest

from tests.plugin.talking import STEPS, TALK
from tests.xdist.cluster import Cluster, outcomes


@pytest.fixture
def talking(cluster: Cluster) -> Cluster:
    """A project whose steps are servers that print what `say` sends."""
    cluster.write("talk.py", TALK)
    cluster.steps(STEPS)
    return cluster


def titles(text: str) -> list[str]:
    """Return the titles of the sections."""
    return re.findall(r"^-+ ?Captured stdout call \(log of (.*?)\) ?-+$", text, re.MULTILINE)


@pytest.mark.parametrize("dist", ["load", "loadfile", "worksteal", "each"])
def test_the_lines_come_from_the_controller(talking: Cluster, dist: str) -> None:
    """Masked there, and the title says that other tests ran at the same time."""
    talking.tests("""
        from pytest_plan import Secret
        from talk import say

        def test_before(db): say(db, "from an earlier test\\n")

        def test_fails(db, web, plan):
            plan.state["password"] = Secret("hunter2")
            say(web, "to web\\n")
            say(db, "password=hunter2\\n")
            assert False
    """)
    said = talking.apart("-n", "2", "--dist", dist).stdout.str()
    others = "during this test and those of other workers"
    times = 2 if dist == "each" else 1
    assert titles(said) == [f"plan step 'db' {others}", f"plan step 'web' {others}"] * times
    assert "\npassword=***\n" in said
    assert "\nto web\n" in said
    assert "hunter2-" not in said


def test_with_one_worker_no_other_tests_ran(talking: Cluster) -> None:
    """Then the title is that of a run without workers, and all lines are those of the test."""
    talking.tests("""
        from talk import say

        def test_before(db): say(db, "from an earlier test\\n")

        def test_fails(db):
            say(db, "of this test\\n")
            assert False
    """)
    said = talking.apart("-n", "1").stdout.str()
    assert titles(said) == ["plan step 'db' during this test"]
    assert "\nof this test\n" in said
    assert "from an earlier test" not in said


FAR = """
    if "PYTEST_XDIST_WORKER" in os.environ:
        stat = os.stat

        def stat_here(path, **options):
            if ".private" in str(path):
                raise FileNotFoundError(path)
            return stat(path, **options)

        os.stat = stat_here
"""


def test_a_worker_on_another_host(talking: Cluster) -> None:
    """It does not find the files of the controller, so it asks for the marks as well."""
    talking.steps(STEPS, FAR)
    talking.tests("""
        from talk import say

        def test_before(db): say(db, "from an earlier test\\n")

        def test_fails(db):
            say(db, "of this test\\n")
            assert False
    """)
    said = talking.apart("-n", "1").stdout.str()
    assert "\nof this test\n" in said
    assert "from an earlier test" not in said


def test_a_log_that_begins_during_the_tests(talking: Cluster) -> None:
    """A step that has written nothing when its tests begin has a log as well."""
    talking.steps("""
        import threading

        @pytest.mark.plan_step
        def late(ctx):
            thread = None

            def write():
                ctx.state.wait_for("ask", "30s")
                ctx.log("asked")
                ctx.state["answer"] = True

            thread = threading.Thread(target=write)
            thread.start()
            yield "late"
            thread.join()
    """)
    talking.tests("""
        def test_fails(late, plan):
            plan.state["ask"] = True
            plan.state.wait_for("answer", "30s")
            assert False

        def test_next(late):
            assert False
    """)
    result = talking.apart("-n", "1")
    assert outcomes(result) == {"failed": 2}
    assert titles(result.stdout.str()) == ["plan step 'late' during this test"]
    assert "\nasked\n" in result.stdout.str()


def test_a_worker_that_crashes(talking: Cluster) -> None:
    """Its test is reported as ever, and the tests of its replacement show the lines."""
    talking.tests("""
        from talk import say

        def test_crashes(db): os._exit(1)

        def test_fails(db):
            say(db, "of this test\\n")
            assert False
    """)
    result = talking.apart("-n", "1")
    assert outcomes(result) == {"failed": 2}
    assert "\nof this test\n" in result.stdout.str()
