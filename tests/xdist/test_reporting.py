"""Output under xdist: written once, by the controller, on separate lines."""

from __future__ import annotations

import os
import pty
import re
import threading
import xml.etree.ElementTree as ET

import pytest

from tests.plugin.project import plan_lines, refuses
from tests.xdist.cluster import Cluster, glued, outcomes, verdicts
from tests.xdist.conftest import MakeCluster

BROKEN = """
@pytest.mark.plan_step
def net():
    note("net")
    yield
    note("net cleaned")

@pytest.mark.plan_step(retries=1, retry_wait=0)
def db(net):
    note("db")
    print("trying")
    raise RuntimeError("no port 5432")
"""
TESTS = """
@pytest.mark.parametrize("number", range(6))
def test_blocked(db, number): note("ran")

@pytest.mark.parametrize("number", range(4))
def test_free(number): pass

def test_net(net): pass
"""


@pytest.fixture(scope="module")
def broken(make_cluster: MakeCluster) -> tuple[Cluster, pytest.RunResult]:
    """A run with a failing step, tests that need it and tests that do not."""
    cluster = make_cluster("broken")
    cluster.steps(BROKEN)
    cluster.tests(TESTS)
    return cluster, cluster.two("-v", "-rA", "--junitxml=junit.xml")


@pytest.fixture
def result(broken: tuple[Cluster, pytest.RunResult]) -> pytest.RunResult:
    """The result of that run."""
    return broken[1]


class TestFailedStep:
    """A step fails in the controller."""

    def test_blocked_tests_are_counted_once(self, result: pytest.RunResult) -> None:
        """The step counts as one error and each test that needs it as one blocked test."""
        assert outcomes(result) == {"passed": 5, "blocked": 6, "errors": 1}
        assert result.ret == 1
        assert verdicts(result)["test_blocked[3]"] == ["BLOCKED"]

    def test_step_is_reported_once(self, result: pytest.RunResult) -> None:
        """The controller reports the failure once and in full."""
        text = result.stdout.str()
        assert text.count("ERROR at setup of plan step 'db'") == 1
        assert text.count('>       raise RuntimeError("no port 5432")') == 1
        assert text.count("ERROR conftest.py::db - RuntimeError: no port 5432") == 1
        assert text.count("ERROR at setup of test_blocked") == 0
        result.stdout.fnmatch_lines(
            ["attempts (2 allowed):", "*Captured stdout and log of plan step 'db'*"]
        )

    def test_each_blocked_test_has_a_line_when_asked_for(self, result: pytest.RunResult) -> None:
        """With `-rA` each blocked test has one line."""
        lines = [line for line in result.outlines if line.startswith("BLOCKED ")]
        assert sorted(lines) == [
            f"BLOCKED test_it.py::test_blocked[{number}] - plan step 'db' failed: "
            "RuntimeError: no port 5432"
            for number in range(6)
        ]

    def test_live_lines_come_once(self, result: pytest.RunResult) -> None:
        """Starts, retries, failure and cleanup have one line each with `-v`."""
        assert plan_lines(result, starts=True) == [
            "plan: net  started",
            "plan: net  ok        T",
            "plan: db   started",
            "plan: db   retry     attempt 1 of 2 failed: RuntimeError: no port 5432; retrying in T",
            "plan: db   FAILED    T  RuntimeError: no port 5432",
            "plan: net  cleanup ok T",
        ]
        assert list(glued(result.stdout.str())) == []

    def test_junit_counts_each_test_once(self, broken: tuple[Cluster, pytest.RunResult]) -> None:
        """The XML file has one error of the step, and one with its name for each blocked test."""
        suite = ET.parse(broken[0].path / "junit.xml").getroot()[0]
        errors = suite.findall("./testcase/error")
        assert (suite.get("tests"), suite.get("failures")) == ("12", "0")
        assert len(errors) == 7
        texts = [error.text or "" for error in errors]
        assert sum(text.startswith("plan step 'db' failed") for text in texts) == 6
        assert sum("step 'db' failed in exec, attempt 2 of 2" in text for text in texts) == 1

    def test_nothing_runs_twice(self, broken: tuple[Cluster, pytest.RunResult]) -> None:
        """The step has two attempts and one cleanup, and no blocked test runs."""
        assert broken[0].calls == ["net", "db", "db", "net cleaned"]


def test_no_test_begins_after_a_failed_step_with_exitfirst(cluster: Cluster) -> None:
    """`-x` stops at a failed step, as xdist does at any failure."""
    cluster.steps(BROKEN)
    cluster.tests("""
    @pytest.mark.parametrize("number", range(20))
    def test_free(number): note("ran")
    def test_blocked(db): note("ran")
    """)
    result = cluster.two("-x")
    assert outcomes(result) == {"errors": 1}
    assert result.ret == 2
    assert cluster.calls == ["net", "db", "db", "net cleaned"]


def test_maxfail_counts_the_step_and_no_blocked_test(cluster: Cluster) -> None:
    """`--maxfail` counts a failed step once, and the tests that it blocks not at all."""
    cluster.steps(BROKEN)
    cluster.tests("""
    @pytest.mark.parametrize("number", range(20))
    def test_blocked(db, number): note("ran")
    def test_failed(): assert False
    """)
    result = cluster.two("--maxfail=3")
    assert outcomes(result) == {"blocked": 20, "failed": 1, "errors": 1}
    assert result.ret == 1


def test_hundred_blocked_tests_take_few_lines(cluster: Cluster) -> None:
    """A broken step that blocks 100 tests in four workers prints under 60 lines."""
    cluster.steps(BROKEN)
    cluster.tests("""
    @pytest.mark.parametrize("number", range(100))
    def test_blocked(db, number): pass
    """)
    result = cluster.apart("-n", "4")
    assert outcomes(result) == {"blocked": 100, "errors": 1}
    assert len(result.outlines) < 60


def test_quiet_says_failures_only(cluster: Cluster) -> None:
    """With `-q` a successful step has no line."""
    cluster.steps(BROKEN)
    cluster.tests(TESTS)
    result = cluster.two("-q")
    assert plan_lines(result) == ["plan: db   FAILED    T  RuntimeError: no port 5432"]
    assert outcomes(result) == {"passed": 5, "blocked": 6, "errors": 1}


def test_in_a_terminal_lines_are_never_glued_to_the_status_of_xdist(cluster: Cluster) -> None:
    """Lines of the plan stay separate where xdist rewrites its status with carriage returns."""
    cluster.steps(
        """
        @pytest.mark.plan_step
        def net(ctx):
            ctx.sleep(0.3)  # the other worker reports itself meanwhile
            yield

        @pytest.mark.plan_step
        def db(net): raise RuntimeError("no port")
        """
    )
    cluster.tests(TESTS)
    screen, terminal = pty.openpty()
    seen: list[bytes] = []

    def read() -> None:
        while True:
            try:
                data = os.read(screen, 4096)
            except OSError:  # the other end is closed
                return
            seen.append(data)

    reader = threading.Thread(target=read)
    with cluster.start("-n", "2", "--color=yes", output=terminal) as live:
        os.close(terminal)
        reader.start()
        live.end()
    reader.join()
    os.close(screen)
    text = b"".join(seen).decode()
    assert "\r" in text.replace("\r\n", "")  # xdist did rewrite its status
    lines = [line for line in re.split(r"\r?\n", text) if "plan: " in line]
    # Without TERM, there is no live view, so that starts have lines, too.
    assert len([line for line in lines if not line.endswith("  started")]) == 3
    assert [line for line in lines if "\r" in line] == []
    assert list(glued(text)) == []
    assert "1 error" in text


def test_skipped_step_skips_its_tests(cluster: Cluster) -> None:
    """Tests of a skipped step are skipped with its reason, and the run is green."""
    cluster.steps("""
    @pytest.mark.plan_step
    def db(): pytest.skip("no docker here")
    """)
    cluster.tests("""
    def test_it(db): note("ran")
    def test_free(): pass
    """)
    result = cluster.two("-rs")
    assert outcomes(result) == {"passed": 1, "skipped": 1}
    assert result.ret == 0
    result.stdout.fnmatch_lines(["SKIPPED [[]1[]] test_it.py:*: plan step 'db': no docker here"])


def test_options_that_select_steps_reach_every_test(cluster: Cluster) -> None:
    """`--plan-until` and `--plan-skip` skip tests in workers, with a reason."""
    cluster.steps("""
    @pytest.mark.plan_step
    def net(): note("net")

    @pytest.mark.plan_step
    def db(net): note("db")

    @pytest.mark.plan_step(needs=("net",))
    def web(): note("web")
    """)
    cluster.tests("""
    def test_net(net): pass
    def test_db(db): pass
    def test_web(web): pass
    """)
    until = cluster.two("--plan-until", "db")
    assert outcomes(until) == {"passed": 2, "skipped": 1}
    skip = cluster.two("--plan-skip", "db")
    assert outcomes(skip) == {"passed": 2, "skipped": 1}
    assert cluster.calls == ["net", "db", "net", "web"]


@pytest.mark.parametrize("option", ["--plan-show", "--setup-plan"])
def test_plan_is_shown_and_nothing_runs(cluster: Cluster, option: str) -> None:
    """Showing the plan works with workers as without them, and runs no step and no test."""
    cluster.steps("""
    @pytest.mark.plan_step
    def db(): note("db")
    """)
    cluster.tests("def test_it(db): note('ran')")
    result = cluster.two(option)
    assert cluster.calls == []
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*= plan =*", "db *", "*1 test needs db:*", "nothing was run"])


@pytest.mark.parametrize(
    ("steps", "test", "texts"),
    [
        (
            "@pytest.mark.plan_step(needs=('b',))\ndef a(): pass\n"
            "@pytest.mark.plan_step(needs=('a',))\ndef b(): pass",
            "def test_it(a): pass",
            ["dependency cycle: 'a' needs 'b', which needs 'a'"],
        ),
        (
            "@pytest.mark.plan_step\ndef a(): pass",
            "@pytest.mark.plan('aa')\ndef test_it(): pass",
            ["@pytest.mark.plan names an unknown step 'aa'"],
        ),
        (
            "@pytest.mark.plan_step\ndef a(tmp_path): pass",
            "def test_it(a): pass",
            ["'tmp_path', which is a pytest fixture"],
        ),
    ],
    ids=["cycle", "unknown name", "fixture"],
)
def test_plan_that_cannot_run_is_one_usage_error(
    cluster: Cluster, steps: str, test: str, texts: list[str]
) -> None:
    """A plan that cannot run ends the run with one usage error, before anything runs."""
    cluster.steps(steps)
    cluster.tests(test)
    result = cluster.two()
    refuses(result, *texts)
    said = result.stdout.str() + result.stderr.str()
    assert said.count(texts[-1]) == 1


@pytest.mark.parametrize(
    ("raised", "status"), [("pytest.exit('enough', 7)", 7), ("raise KeyboardInterrupt", 2)]
)
def test_step_that_ends_the_session(cluster: Cluster, raised: str, status: int) -> None:
    """`pytest.exit` or KeyboardInterrupt in a step ends the run after cleaning up."""
    cluster.steps(f"""
    @pytest.mark.plan_step
    def net():
        yield
        note("net cleaned")

    @pytest.mark.plan_step
    def db(net):
        {raised}
    """)
    cluster.tests("def test_it(db): note('ran')")
    result = cluster.two()
    assert cluster.calls == ["net cleaned"]
    assert result.ret == status


def test_limit_stops_provisioning(cluster: Cluster) -> None:
    """If the limit passes while a step runs, its tests are blocked and the run is red."""
    cluster.steps("""
    @pytest.mark.plan_step
    def db(ctx):
        ctx.defer(note, "undone")
        ctx.sleep(60)
    """)
    cluster.tests("def test_it(db): note('ran')")
    result = cluster.two("--plan-limit", "1s")
    assert "the plan's limit of 1.00s has passed" in result.stdout.str()
    assert cluster.calls == ["undone"]
    assert result.ret == 1
    assert outcomes(result)["blocked"] == 1


def test_surrogates_in_messages_are_shown_as_escapes(cluster: Cluster) -> None:
    """A message may contain bytes that are not valid UTF-8, as names of files do.

    execnet cannot send them. The tests are blocked, skipped and failed as in a solo run.
    """
    cluster.steps(r"""
    @pytest.mark.plan_step(eager=True)
    def early(ctx): ctx.setenv("EARLY", "variable\udcfb")

    @pytest.mark.plan_step
    def db(ctx, state):
        ctx.setenv("NAME", "variable\udcfc")
        state["name\udcff"] = "value\udcfe"
        return "own\udcfd"

    @pytest.mark.plan_step(needs=())
    def broken(): raise RuntimeError("bad \udcff name")

    @pytest.mark.plan_step(needs=())
    def skipped(): pytest.skip("no \udcff name")
    """)
    cluster.tests(r"""
    @pytest.mark.plan("db")
    def test_passed(db, plan):
        assert (db, plan.state["name\udcff"]) == ("own\udcfd", "value\udcfe")
        with pytest.raises(KeyError):
            plan.state["missing\udcff"]
        plan.state["new\udcff"] = 1
        assert set(plan.state) == {"db", "name\udcff", "new\udcff"}
        assert os.environ["NAME"] == "variable\udcfc"
        assert os.environ["EARLY"] == "variable\udcfb"
    def test_blocked(broken): pass
    def test_skipped(skipped): pass
    def test_failed(): raise RuntimeError("worse \udcff name")
    """)
    result = cluster.two("-o", "plan_continue_on_error=true", "-rA", "--junitxml=junit.xml")
    assert "INTERNALERROR" not in str(result.outlines)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    for text in (r"bad \udcff name", r"no \udcff name", r"worse \udcff name"):
        assert text in str(result.outlines).replace("\\\\", "\\"), text
    result.assert_outcomes(passed=1, skipped=1, failed=1, errors=1)
