"""Instances of steps that wait for tests, and instances for workers that join a later stage."""

from __future__ import annotations

import re

from tests.xdist.cluster import Cluster

STEPS = """
    def drop(ctx):
        note("dropped", ctx.step)

    @pytest.mark.plan_step(params=["15", "16"])
    def server(ctx):
        return ctx.param

    @pytest.mark.plan_step(per="worker", cleanup=drop)
    def database(ctx, server):
        note("made", ctx.step)
        return f"{server}/{ctx.worker}"

    @pytest.mark.plan_step(after_tests=True)
    def upgraded(server):
        note("upgraded", server)
        return f"new {server}"

    @pytest.mark.plan_step(per="worker", cleanup=drop)
    def migrated(ctx, database, upgraded):
        note("made", ctx.step)
        return f"{upgraded}/{database}"
"""
TESTS = """
    WORKER = os.environ.get("PYTEST_XDIST_WORKER", "master")

    @pytest.mark.parametrize("number", range(2))
    def test_after(migrated, database, number):
        server = database.partition("/")[0]
        assert migrated == f"new {server}/{server}/{WORKER}"
        note("after")

    @pytest.mark.parametrize("number", range(2))
    def test_before(database, number):
        assert database.endswith(WORKER)
        note("before")

    @pytest.mark.plan_each("server", "upgraded")
    def test_each(plan, plan_step_name):
        note("before" if plan_step_name == "server" else "after")
        assert plan.state[plan_step_name][-2:] in ("15", "16")
"""


def test_instances_of_steps_that_wait_for_tests(cluster: Cluster) -> None:
    """All instances of such a step begin together, once the tests before them have ended."""
    cluster.steps(STEPS)
    cluster.tests(TESTS)
    result = cluster.two()
    result.assert_outcomes(passed=12)
    calls = cluster.calls
    last = max(place for place, call in enumerate(calls) if call == "before")
    late = [place for place, call in enumerate(calls) if "migrated" in call or "upgraded" in call]
    assert calls.count("before") == calls.count("after") == 6
    assert last < min(late)
    made = sorted(call.removeprefix("made ") for call in calls if call.startswith("made"))
    assert made == [
        f"{step}[{version}]@{worker}"
        for step in ("database", "migrated")
        for version in ("15", "16")
        for worker in ("gw0", "gw1")
    ]
    assert sorted(call.removeprefix("dropped ") for call in calls if "dropped" in call) == made
    result.stdout.fnmatch_lines(
        ["plan: stage 2 of 2: 6 tests have ended; provisioning upgraded, migrated"]
    )


def test_a_clone_has_its_instances_in_the_stage_that_it_joins_and_in_later_ones(
    cluster: Cluster,
) -> None:
    """Those of later stages are made with those of the other workers, never for a dead worker."""
    cluster.steps(STEPS)
    cluster.tests(
        TESTS,
        """
        def test_before_crash(database):
            if database.startswith("15"):
                os._exit(1)
            note("before")

        def test_after_crash(migrated):
            if migrated.startswith("new 15"):
                os._exit(1)
            note("after")
        """,
    )
    result = cluster.two()
    result.assert_outcomes(passed=14, failed=2)
    calls = cluster.calls
    last = max(place for place, call in enumerate(calls) if call == "before")
    late = [place for place, call in enumerate(calls) if "migrated" in call or "upgraded" in call]
    assert last < min(late)
    made = [call.removeprefix("made ") for call in calls if call.startswith("made")]
    dropped = [call.removeprefix("dropped ") for call in calls if call.startswith("dropped")]
    assert len(set(made)) == len(made)
    assert sorted(made) == sorted(dropped)
    died = re.findall(r"replacing crashed worker (gw\d)", result.stdout.str())
    assert not [name for name in made if name.startswith("migrated") and name.endswith(died[0])]
