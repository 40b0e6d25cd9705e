"""One environment for all workers: provisioned once, by the controller, and visible to all."""

from __future__ import annotations

import json

import pytest

from tests.plugin.project import plan_lines
from tests.xdist.cluster import Cluster, glued, once, outcomes
from tests.xdist.conftest import MakeCluster

STEPS = """
import psutil

@pytest.mark.plan_step
def net(ctx, state):
    note("net", os.getpid())
    ctx.setenv("NET_URL", "tcp://net")
    state["made"] = ["by", "net"]
    return {"port": 80}

@pytest.mark.plan_step
def db(net, ctx):
    '''The database.'''
    note("db", os.getpid())
    yield net["port"] + 1
    with open("calls.txt") as calls:
        workers = [int(line.split()[2]) for line in calls if line.startswith("test ")]
    alive = [pid for pid in workers if psutil.pid_exists(pid)]
    note("cleaned", os.getpid(), "beside", len(alive), "workers")

@pytest.mark.plan_step
def unneeded():
    note("unneeded")
"""
TEST = """
import pytest, json

@pytest.mark.plan("db", "net")
@pytest.mark.parametrize("number", range(3))
def test_{name}(number, db, net, plan, request):
    assert (net, db) == ({{"port": 80}}, 81)
    assert plan.state["made"] == ["by", "net"]
    facts = {{
        "worker": os.environ["PYTEST_XDIST_WORKER"], "run_id": plan.run_id,
        "environment": plan.environment, "remaining": plan.remaining(),
        "url": os.environ["NET_URL"], "db": str(plan.results["db"].outcome),
        "same": net is request.getfixturevalue("net"),
    }}
    note("test {name}", os.getpid(), json.dumps(facts))

@pytest.mark.plan("db")
def test_needs_no_more_{name}(request, plan):
    plan.need("db")
    with pytest.raises(pytest.fail.Exception, match=r"mark the test with @pytest.mark.plan\\('unn"):
        request.getfixturevalue("unneeded")
    with pytest.raises(pytest.fail.Exception, match="was not provisioned"):
        plan.need("unneeded")
    with pytest.raises(pytest.fail.Exception, match="unknown step 'dv'"):
        plan.need("dv")
"""


@pytest.fixture(scope="module")
def one_run(make_cluster: MakeCluster) -> tuple[Cluster, pytest.RunResult]:
    """A run with two workers that both get tests."""
    cluster = make_cluster("once")
    cluster.steps(STEPS)
    for name in ("one", "other"):
        cluster.tests(TEST.format(name=name), name=f"test_{name}.py")
    return cluster, cluster.two("--dist", "loadfile", "--plan-limit", "1h")


@pytest.fixture
def ran(one_run: tuple[Cluster, pytest.RunResult]) -> Cluster:
    """The project of the shared run."""
    return one_run[0]


@pytest.fixture
def result(one_run: tuple[Cluster, pytest.RunResult]) -> pytest.RunResult:
    """The result of the shared run."""
    return one_run[1]


@pytest.fixture
def facts(ran: Cluster) -> list[dict[str, object]]:
    """What each test of the shared run saw."""
    return [json.loads(note.split(" ", 2)[2]) for note in ran.notes("test")]


class TestOneRun:
    """A run with two workers that both get tests."""

    def test_all_pass(self, result: pytest.RunResult) -> None:
        """Every test passes, and the exit status is 0."""
        assert outcomes(result) == {"passed": 8}
        assert result.ret == 0
        assert result.errlines == []

    def test_needed_steps_run_once(self, ran: Cluster) -> None:
        """Each needed step runs exactly once, and no other step runs."""
        assert len(ran.notes("net")) == 1
        assert ran.notes("net") == ran.notes("db")
        assert ran.notes("unneeded") == []

    def test_provisioned_by_the_controller(self, ran: Cluster) -> None:
        """Every step runs in the controller."""
        workers = {note.split()[1] for note in ran.notes("test")}
        assert len(workers) == 2
        assert not workers & set(ran.notes("db"))

    def test_both_workers_see_the_same_run(self, facts: list[dict[str, object]]) -> None:
        """Both workers see the same run: id, environment, results and variables of the steps."""
        assert {fact.pop("worker") for fact in facts} == {"gw0", "gw1"}
        remaining = [fact.pop("remaining") for fact in facts]
        assert all(isinstance(left, float) and 3500 < left < 3600 for left in remaining)
        assert facts[1:] == facts[:-1]
        run_id = facts[0]["run_id"]
        assert facts[0] == {
            "run_id": run_id,
            "environment": f"run-{run_id}",
            "url": "tcp://net",
            "db": "succeeded",
            "same": True,
        }

    def test_cleaned_up_once_by_the_controller_after_the_workers(self, ran: Cluster) -> None:
        """Cleanup runs once, in the controller, when no worker is alive any more."""
        (controller,) = ran.notes("db")
        assert ran.notes("cleaned") == [f"{controller} beside 0 workers"]

    def test_live_lines_come_once(self, result: pytest.RunResult) -> None:
        """Only the controller reports the plan, with each live line once and on its own line."""
        assert plan_lines(result) == [
            "plan: net       ok        T",
            "plan: db        ok        T",
            "plan: db        cleanup ok T",
            "plan: net       cleanup ok T",
        ]
        assert list(glued(result.stdout.str())) == []
        assert result.stdout.str().count("= plan =") == 1

    def test_live_lines_stand_between_those_of_xdist(self, result: pytest.RunResult) -> None:
        """Provisioning is shown before the number of workers, and cleanup after the last test."""
        result.stdout.fnmatch_lines(
            [
                "created: 2/2 workers",
                "plan: net *",
                "plan: db *",
                "2 workers [[]8 items[]]",
                "*[[]100%[]]",
                "plan: db * cleanup ok *",
                "plan: net * cleanup ok *",
                "*= plan =*",
                "*= 8 passed in *",
            ]
        )


@pytest.mark.parametrize(
    "mode", ["load", "loadscope", "loadfile", "loadgroup", "worksteal", "each"]
)
def test_every_dist_mode_honours_the_needs_of_each_test(cluster: Cluster, mode: str) -> None:
    """In every `--dist` mode a test runs if its own steps succeeded, else it is blocked."""
    cluster.steps(
        """
        @pytest.mark.plan_step(needs=())
        def good():
            note("good")
            yield "good"
            note("cleaned")

        @pytest.mark.plan_step(needs=())
        def bad():
            note("bad")
            raise RuntimeError("no port")
        """
    )
    source = """
    class TestNeeds:
        @pytest.mark.xdist_group("one")
        def test_good(self, good): assert good == "good"
        def test_bad(self, bad): note("ran")
        @pytest.mark.xdist_group("one")
        def test_both(self, good, bad): note("ran")
        def test_free(self): pass
    """
    cluster.tests(source, name="test_one.py")
    cluster.tests(source, name="test_other.py")
    result = cluster.two("--dist", mode, "--plan-continue-on-error")
    times = 2 if mode == "each" else 1
    assert outcomes(result) == {"passed": 4 * times, "blocked": 4 * times, "errors": 1}
    assert sorted(cluster.calls) == ["bad", "cleaned", "good"]
    assert result.ret == 1


def test_later_worker_may_bring_further_needs(cluster: Cluster) -> None:
    """With `--dist each`, workers can need different steps, and each step still runs once."""
    cluster.steps(
        """
        @pytest.mark.plan_step(needs=())
        def first(): note("first")

        @pytest.mark.plan_step(needs=())
        def second(): note("second")

        def pytest_collection_modifyitems(items):
            worker = os.environ.get("PYTEST_XDIST_WORKER")
            names = {"gw0": ["test_first", "test_both"], "gw1": ["test_second"]}.get(worker, [])
            items[:] = [item for item in items if item.name in names]
        """
    )
    cluster.tests("""
    def test_first(first): note(os.environ["PYTEST_XDIST_WORKER"], "first")
    def test_second(second): note(os.environ["PYTEST_XDIST_WORKER"], "second")
    def test_both(first): note(os.environ["PYTEST_XDIST_WORKER"], "both")
    """)
    result = cluster.two("--dist", "each")
    assert outcomes(result) == {"passed": 3}
    assert sorted(cluster.calls) == ["first", "gw0 both", "gw0 first", "gw1 second", "second"]
    once(result, "first", "second")


def test_nothing_runs_when_no_test_needs_it(cluster: Cluster) -> None:
    """If no test needs a step, no step runs, and one line says so."""
    cluster.steps("""
    @pytest.mark.plan_step
    def db(): note("db")
    """)
    cluster.tests("def test_free(): pass")
    result = cluster.two()
    assert outcomes(result) == {"passed": 1}
    assert plan_lines(result) == ["plan: no selected test needs a step"]
    assert cluster.calls == []


BROKEN = """
@pytest.mark.plan_step(eager=True, needs=())
def early(): note("early")

@pytest.mark.plan_step(needs=())
def db(): note("db")
"""
BROKEN_TESTS = """
def test_early(early): note("test_early")
def test_db(db): note("test_db")
def test_all(plan, early, db): note("test_all")
def test_free(): note("test_free")
"""


@pytest.mark.parametrize("args", [(), ("--plan-until=early",), ("--plan-limit=10m",)], ids=str)
def test_no_step_runs_after_a_collection_error(cluster: Cluster, args: tuple[str, ...]) -> None:
    """Tests that need a step that has not run are blocked, and say why; the others run."""
    cluster.steps(BROKEN)
    cluster.tests(BROKEN_TESTS)
    cluster.tests("import no_such_module", name="test_broken.py")
    result = cluster.two(*args)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert outcomes(result) == {"passed": 2, "errors": 1, "blocked": 2}
    assert sorted(cluster.calls) == ["early", "test_early", "test_free"]
    result.stdout.fnmatch_lines(
        "2 tests blocked: step 'db' was not provisioned: test collection failed; fix the errors, "
        "or run with --continue-on-collection-errors"
    )
    assert "no selected test needs a step" not in result.stdout.str()


def test_a_collection_error_can_be_continued(cluster: Cluster) -> None:
    """With `--continue-on-collection-errors`, steps and tests run as without workers."""
    cluster.steps(BROKEN)
    cluster.tests(BROKEN_TESTS)
    cluster.tests("import no_such_module", name="test_broken.py")
    result = cluster.two("--continue-on-collection-errors")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert outcomes(result) == {"passed": 4, "errors": 1}
    assert cluster.called("db") == 1


def test_eager_steps_come_before_the_first_worker(cluster: Cluster) -> None:
    """Eager steps and their variables exist before workers start and import tests.

    A worker that replaces a crashed one imports the tests again, and has the variables as well.
    """
    cluster.steps(
        """
        import psutil

        @pytest.mark.plan_step(eager=True)
        def url(ctx):
            children = [" ".join(child.cmdline()) for child in psutil.Process().children()]
            # All but the reaper, whose command line is empty for a moment when it starts.
            workers = [line for line in children if line and "watchdog.py" not in line]
            note("url", "beside", len(workers), "workers")
            ctx.setenv("APP_URL", "http://app")
            return "http://app"

        @pytest.mark.plan_step
        def late(url, ctx):
            note("late")
            ctx.setenv("LATE_URL", url + "/late")

        def pytest_sessionstart():
            note("sessionstart", os.environ["APP_URL"])
        """
    )
    cluster.tests("""
    URL = os.environ["APP_URL"]

    @pytest.mark.parametrize("url", [URL])
    def test_parameter(url): assert url == "http://app"

    def test_crash(late):
        note("crash", os.environ["LATE_URL"])
        os._exit(7)

    @pytest.mark.parametrize("number", range(4))
    def test_after(late, number):
        note("after", os.environ["PYTEST_XDIST_WORKER"], os.environ["LATE_URL"])
    """)
    result = cluster.apart("-n", "1")
    assert outcomes(result) == {"passed": 5, "failed": 1}
    assert cluster.notes("url") == ["beside 0 workers"]
    assert cluster.called("late") == 1
    assert cluster.notes("sessionstart") == ["http://app"] * 3  # controller, worker, clone
    assert cluster.notes("crash") == ["http://app/late"]
    assert cluster.notes("after") == ["gw1 http://app/late"] * 4
    once(result, "url", "late")


def test_collect_only_provisions_nothing(cluster: Cluster) -> None:
    """`--collect-only` runs no step, not even an eager one."""
    cluster.steps("""
    @pytest.mark.plan_step(eager=True)
    def db(): note("db")
    """)
    cluster.tests("def test_it(db): pass")
    assert cluster.two("--collect-only").ret == 0
    assert cluster.calls == []


def test_no_workers_means_solo(cluster: Cluster) -> None:
    """`-n 0` runs the tests in the process that provisions."""
    cluster.steps("""
    @pytest.mark.plan_step
    def db(): note(os.getpid())
    """)
    cluster.tests("def test_it(db): note(os.getpid())")
    result = cluster.apart("-n", "0")
    assert outcomes(result) == {"passed": 1}
    assert len(cluster.calls) == 2
    assert len(set(cluster.calls)) == 1
    once(result, "db")


def test_tests_do_not_pay_for_provisioning(cluster: Cluster) -> None:
    """A test with a time limit shorter than provisioning passes: its timer starts afterward."""
    cluster.steps("""
    @pytest.mark.plan_step
    def db(ctx): ctx.sleep(1.5)
    """)
    cluster.tests("""
    @pytest.mark.parametrize("number", range(4))
    def test_it(db, number): pass
    """)
    result = cluster.two("-p", "timeout", "--timeout", "0.5")
    assert outcomes(result) == {"passed": 4}


def test_random_order_changes_nothing(cluster: Cluster) -> None:
    """With pytest-randomly the steps still run once and in their order."""
    cluster.steps("""
    @pytest.mark.plan_step
    def net(): note("net")

    @pytest.mark.plan_step
    def db(net): note("db")
    """)
    cluster.tests("""
    @pytest.mark.parametrize("number", range(20))
    def test_it(db, number): pass
    """)
    result = cluster.two("-p", "randomly", "-p", "no:cacheprovider")
    assert outcomes(result) == {"passed": 20}
    assert cluster.calls == ["net", "db"]


def test_reruns_never_provision_again(cluster: Cluster) -> None:
    """pytest-rerunfailures reruns a test, but no step and no blocked test."""
    cluster.steps("""
    @pytest.mark.plan_step(needs=())
    def good():
        note("good")
        yield "value"
        note("cleaned")

    @pytest.mark.plan_step(needs=())
    def bad():
        note("bad")
        raise RuntimeError("no port")
    """)
    cluster.tests("""
    @pytest.mark.plan("good")
    def test_flaky(good, plan):
        plan.state["tries"] = plan.state.get("tries", 0) + 1
        assert good == "value" and plan.state["tries"] == 3

    def test_blocked(bad): pass
    """)
    result = cluster.two("-p", "rerunfailures", "--reruns", "3", "--plan-continue-on-error")
    assert outcomes(result) == {"passed": 1, "rerun": 2, "blocked": 1, "errors": 1}
    assert sorted(cluster.calls) == ["bad", "cleaned", "good"]


def test_last_failed_needs_only_its_steps(cluster: Cluster) -> None:
    """`--lf` selects the tests that failed or were blocked, and only their steps run."""
    cluster.steps("""
    @pytest.mark.plan_step(needs=())
    def good(): note("good")

    @pytest.mark.plan_step(needs=())
    def bad():
        note("bad")
        assert os.path.exists("repaired")
    """)
    cluster.tests("""
    def test_good(good): pass
    def test_bad(bad): pass
    """)
    first = cluster.two("--plan-continue-on-error")
    assert outcomes(first) == {"passed": 1, "blocked": 1, "errors": 1}
    cluster.write("repaired", "")
    second = cluster.two("--lf")
    assert outcomes(second) == {"passed": 1}
    assert sorted(cluster.calls) == ["bad", "bad", "good"]


def test_variables_reach_tests_that_need_no_step(cluster: Cluster) -> None:
    """`ctx.setenv` sets a variable for all tests in every process, as without xdist."""
    cluster.steps("""
    @pytest.mark.plan_step
    def db(ctx): ctx.setenv("DB_URL", "tcp://db")
    """)
    free = "def test_free(): assert os.environ['DB_URL'] == 'tcp://db'"
    cluster.tests(free, name="test_a.py")
    cluster.tests(free, name="test_b.py")
    cluster.tests("def test_needs(db): pass", name="test_c.py")
    assert outcomes(cluster.two("--dist", "loadfile")) == {"passed": 3}


def test_value_is_fetched_once_per_worker(cluster: Cluster) -> None:
    """A worker unpickles a step's value once, and the controller never does."""
    cluster.write(
        "values.py",
        """
        from calls import note

        class Value:
            def __reduce__(self): return (opened, ())

        def opened():
            note("opened")
            return Value()
        """,
    )
    cluster.steps("""
    import values

    @pytest.mark.plan_step
    def heavy():
        yield values.Value()
    """)
    for name in ("one", "other"):
        cluster.tests(
            """
            @pytest.mark.parametrize("number", range(4))
            def test_it(heavy, number): assert type(heavy).__name__ == "Value"
            """,
            name=f"test_{name}.py",
        )
    assert outcomes(cluster.two("--dist", "loadfile")) == {"passed": 8}
    assert cluster.calls == ["opened"] * 2


def test_results_cross_processes_whatever_a_step_raised(cluster: Cluster) -> None:
    """`plan.results` has the failure of a step even if its exception cannot be pickled."""
    cluster.steps("""
    import threading

    @pytest.mark.plan_step(needs=())
    def good(): pass

    @pytest.mark.plan_step(needs=())
    def bad():
        class Local(Exception): pass
        raise Local("no port", threading.Lock())
    """)
    cluster.tests("""
    @pytest.mark.plan("good")
    def test_it(plan):
        assert str(plan.results["good"].outcome) == "succeeded"
        assert str(plan.results["bad"].outcome) == "failed"
        assert "no port" in str(plan.results["bad"].error)

    def test_blocked(bad): pass
    """)
    result = cluster.two("--plan-continue-on-error")
    assert outcomes(result) == {"passed": 1, "blocked": 1, "errors": 1}
