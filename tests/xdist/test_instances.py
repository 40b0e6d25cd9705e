"""Steps per worker, and steps with parameters, for workers."""

from __future__ import annotations

import json

import pytest

from tests.xdist.cluster import Cluster

STEPS = """
    def drop(ctx, value):
        note("dropped", value, "for", ctx.worker)

    @pytest.mark.plan_step
    def server():
        note("made server")
        return "server"

    @pytest.mark.plan_step(per="worker", cleanup=drop)
    def database(ctx, server):
        if ctx.worker == os.environ.get("FAILS"):
            raise RuntimeError("disk full")
        note("made", ctx.step)
        ctx.setenv("URL", f"{server}/{ctx.worker}")
        return f"{server}/{ctx.worker}"
"""
TESTS = """
    import time

    WORKER = os.environ.get("PYTEST_XDIST_WORKER", "master")

    @pytest.mark.parametrize("number", range(8))
    def test_it(database, plan, number):
        time.sleep(0.1)
        assert database == os.environ["URL"] == f"server/{WORKER}" == plan.state["database"]
        assert plan.state[f"database@{WORKER}"] == database
        assert plan.results["database"].name == f"database@{WORKER}"

    def test_free():
        assert os.environ["URL"] == f"server/{WORKER}"
"""


def test_each_worker_has_its_own_instance(cluster: Cluster) -> None:
    """Its value, State, results and variables; the controller makes and undoes all of them."""
    cluster.steps(STEPS)
    cluster.tests(TESTS)
    result = cluster.two("--plan-report", "plan.json")
    result.assert_outcomes(passed=9)
    assert cluster.calls[0] == "made server"
    assert sorted(cluster.calls[1:]) == [
        "dropped server/gw0 for gw0",
        "dropped server/gw1 for gw1",
        "made database@gw0",
        "made database@gw1",
    ]
    report = json.loads((cluster.path / "plan.json").read_text())
    assert [step["name"] for step in report["steps"]] == ["server", "database@gw0", "database@gw1"]
    assert report["steps"][2]["needs"] == ["server"]


@pytest.mark.parametrize("fails", [False, True], ids=["clone works", "clone fails"])
def test_a_clone_gets_its_own_instance(cluster: Cluster, fails: bool) -> None:
    """Other workers go on meanwhile; if it fails, it is the step that fails for all of them."""
    cluster.steps(
        STEPS.replace(
            'note("made", ctx.step)',
            """note("made", ctx.step)
        while ctx.worker == "gw2" and not os.path.exists("go_on"):
            ctx.sleep(0.05)
        if ctx.worker == "gw2" and os.environ.get("CLONE_FAILS"):
            raise RuntimeError("disk full")""",
        )
    )
    cluster.tests(
        """
        import time
        from pathlib import Path

        WORKER = os.environ.get("PYTEST_XDIST_WORKER")

        @pytest.mark.parametrize("number", range(12))
        def test_it(database, number):
            if number == 0:
                os._exit(1)
            # A test of the other worker runs while the instance for the clone is made.
            until = time.monotonic() + 20
            while number == 1 and time.monotonic() < until:
                if "made database@gw2" in Path("calls.txt").read_text():
                    Path("go_on").touch()
                    break
                time.sleep(0.05)
            note(WORKER)
            assert database == os.environ["URL"] == f"server/{WORKER}"
            time.sleep(0.2)
        """
    )
    result = cluster.two("-rE", env={"CLONE_FAILS": "1"} if fails else {})
    said = result.stdout.str()
    assert "plan: database@gw2" in said
    assert (cluster.path / "go_on").exists()
    assert cluster.calls.count("dropped server/gw0 for gw0") == 1
    if not fails:
        result.assert_outcomes(passed=11, failed=1)
        assert {"gw2", "dropped server/gw2 for gw2"} <= set(cluster.calls)
        assert len({"gw0", "gw1"} & set(cluster.calls)) == 1  # the other one has died
        return
    assert result.ret == 1
    assert "ERROR conftest.py::database@gw2 - RuntimeError: disk full" in said
    assert "plan step 'database@gw2' failed: RuntimeError: disk full" in said
    assert "gw2" not in cluster.calls
    assert "dropped server/gw2 for gw2" not in cluster.calls


def test_an_instance_that_fails_blocks_the_tests_of_all_workers(cluster: Cluster) -> None:
    """The reason names the instance; tests that do not need the step run."""
    cluster.steps(STEPS)
    cluster.tests("def test_it(database): ...", "def test_free(): ...")
    result = cluster.two("--plan-continue-on-error", "-rE", env={"FAILS": "gw1"})
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*pytest*--plan-until database*",
            "BLOCKED *::test_it - plan step 'database@gw1' failed: RuntimeError: disk full",
            "ERROR conftest.py::database@gw1 - RuntimeError: disk full",
        ]
    )


def test_parameters_are_provisioned_for_all_workers(cluster: Cluster) -> None:
    """Tests get the instances of their parameter and worker; a failed one blocks only its own."""
    cluster.steps(
        """
        @pytest.mark.plan_step(params=["15", "16", "18"])
        def postgres(ctx):
            if ctx.param == "15":
                raise RuntimeError("no binaries")
            ctx.setenv("PG", ctx.param)
            return ctx.param

        @pytest.mark.plan_step(per="worker")
        def database(postgres, ctx):
            return [postgres, ctx.worker]
        """
    )
    cluster.tests(
        """
        WORKER = os.environ.get("PYTEST_XDIST_WORKER")

        @pytest.mark.parametrize("number", range(3))
        def test_it(database, number):
            assert database == [os.environ["PG"], WORKER]

        def test_free():
            assert "PG" not in os.environ
        """
    )
    result = cluster.two("-rE", "--dist", "worksteal")
    result.assert_outcomes(passed=7, errors=1)
    result.stdout.fnmatch_lines(
        ["BLOCKED *::test_it[[]15-0[]] - plan step 'postgres[[]15[]]' failed: *: no binaries"]
    )
    result.stdout.no_fnmatch_line("BLOCKED*16*")


def test_kept_instances_are_reused_with_another_number_of_workers(cluster: Cluster) -> None:
    """The first worker and a run without workers continue each other; others are cleaned up."""
    cluster.steps(STEPS)
    cluster.tests("def test_it(database): note('used', database)")
    args = ("-p", "pytest_plan", "-p", "xdist")

    def made() -> list[str]:
        calls = sorted(line for line in cluster.calls if not line.startswith("used"))
        (cluster.path / "calls.txt").unlink()
        return calls

    cluster.two("--plan-keep", "always").assert_outcomes(passed=1)
    assert made() == ["made database@gw0", "made database@gw1", "made server"]
    result = cluster.bare(*args, "--plan-reuse")
    assert "plan: database@gw1 is cleaned up: this run has no worker 'gw1'" in result.stdout.str()
    result.stdout.fnmatch_lines(["plan: database  reused *", "plan: kept: server, database"])
    assert "used server/gw0" in cluster.calls
    assert made() == ["dropped server/gw1 for gw1"]
    cluster.two("--plan-reuse").assert_outcomes(passed=1)
    assert made() == ["made database@gw1"]
    assert cluster.bare(*args, "--plan-cleanup").ret == 0
    assert made() == ["dropped server/gw0 for gw0", "dropped server/gw1 for gw1"]
    cluster.bare(*args, "--plan-reuse").assert_outcomes(passed=1)
    assert made() == ["made database@master", "made server"]
    result = cluster.two("--plan-reuse")
    result.stdout.fnmatch_lines(["plan: database@master  reused *", "plan: database@gw1 *ok *"])
    assert made() == ["made database@gw1"]
    assert cluster.bare(*args, "--plan-forget", "database").ret == 0
    assert cluster.bare(*args, "--plan-cleanup").ret == 0


def test_many_instances_share_a_line_of_the_table(cluster: Cluster) -> None:
    """Those with another outcome are named; JSON has all of them."""
    cluster.steps(STEPS)
    cluster.tests("def test_it(database): ...")
    args = ("-n", "5", "--plan-continue-on-error", "--plan-report", "plan.json")
    result = cluster.apart(*args, env={"FAILS": "gw3"})
    result.stdout.re_match_lines([r"database .5 \*? +4 succeeded, gw3 failed  .*s +succeeded .*"])
    report = json.loads((cluster.path / "plan.json").read_text())
    assert [step["name"] for step in report["steps"]][1:] == [f"database@gw{n}" for n in range(5)]


def test_a_test_stops_the_program_of_its_own_instance(cluster: Cluster) -> None:
    """Although several workers run tests; what is stopped is started again after the test."""
    cluster.steps(
        """
        @pytest.mark.plan_step(per="worker")
        def server(ctx):
            return ctx.start(["sleep", "100"]).pid
        """
    )
    cluster.tests(
        """
        @pytest.mark.parametrize("number", range(6))
        def test_it(plan, server, number):
            program = plan.program("server")
            program.stop()
            if number % 2:
                program.start()
        """
    )
    cluster.two().assert_outcomes(passed=6)
