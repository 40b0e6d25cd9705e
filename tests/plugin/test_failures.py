"""Failures of steps and cleanups: the report, the blocked tests and the exit status."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from tests.plugin.project import Project, plan_lines, refuses

BROKEN = """
@pytest.mark.plan_step
def db():
    note("db")
    raise RuntimeError("no port 5432")
"""
NOISY = """
import logging, sys

@pytest.mark.plan_step(retries=1, retry_wait=0)
def db(ctx):
    print("from print")
    print("from stderr", file=sys.stderr)
    logging.getLogger("setup").warning("from logging")
    ctx.log("from ctx.log")
    ctx.run([sys.executable, "-c", "print('from ' + 'a program')"])
    raise RuntimeError("no port 5432")
"""
FIRST = """
@pytest.mark.plan_step
def first():
    yield
    note("undo first")
"""
STUCK = """
import threading
go_on = threading.Event()

def pytest_unconfigure():
    go_on.set()
"""
SOURCES = ["from print", "from stderr", "from logging", "from ctx.log", "from a program"]


@pytest.fixture
def broken(project: Project) -> Project:
    """A project with one failing step, two tests that need it, and one test that does not."""
    project.steps(BROKEN)
    project.tests("""
    def test_first(db): note("first")
    def test_free(): note("free")
    def test_second(db): note("second")
    """)
    return project


class TestReport:
    """The report of a failed step."""

    def test_step_is_reported_once(self, broken: Project) -> None:
        """The step has one section with source, error and advice, and one line in the summary."""
        result = broken.run()
        text = result.stdout.str()
        assert text.count("ERROR at setup of plan step 'db'") == 1
        assert text.count('>       raise RuntimeError("no port 5432")') == 1
        result.stdout.fnmatch_lines(
            [
                "*= ERRORS =*",
                "*_ ERROR at setup of plan step 'db' _*",
                "step 'db' failed in exec, attempt 1 of 1: RuntimeError: no port 5432 "
                "(conftest.py:6)",
                "E       RuntimeError: no port 5432",
                "conftest.py:9: RuntimeError",
                "To rerun only this step and its dependencies: "
                "pytest -p pytest_plan --plan-until db",
                "*= short test summary info =*",
                "ERROR conftest.py::db - RuntimeError: no port 5432",
            ]
        )

    def test_source_is_shown_as_it_is_written(self, broken: Project) -> None:
        """The step's source is shown with the indentation that pytest uses."""
        broken.run().stdout.fnmatch_lines(
            [
                "    @pytest.mark.plan_step",
                "    def db():",
                '        note("db")',
                '>       raise RuntimeError("no port 5432")',
            ]
        )

    def test_no_frame_of_ours_is_shown(self, broken: Project) -> None:
        """The traceback begins in the step, not in the engine."""
        assert "engine" not in broken.run().stdout.str()

    @pytest.mark.parametrize(
        "call",
        [
            'ctx.run([sys.executable, "-c", "import sys; sys.exit(3)"])',
            'ctx.run(["no-such-program"])',
            'ctx.start(["no-such-program"])',
            'ctx.sleep("soon")',
            'state["db"] = state[1]',
            'ctx.wait_until(lambda: urllib.request.urlopen("http://127.0.0.1:1"), timeout=0)',
        ],
    )
    def test_an_error_from_ctx_points_at_the_step(self, project: Project, call: str) -> None:
        """An error raised by a method of ctx is shown at the step's line, without library code."""
        project.steps(f"""
        import sys, urllib.request

        @pytest.mark.plan_step
        def db(ctx, state):
            {call}
        """)
        project.tests("def test_it(db): pass")
        result = project.run()
        marked = [line for line in result.outlines if line.startswith(">")]
        assert [line[1:].strip() for line in marked] == [call]
        assert "/subprocess.py" not in result.stdout.str()
        assert "/request.py" not in result.stdout.str()

    def test_refused_write_points_at_the_test(self, project: Project) -> None:
        """The error of a refused write is shown at the test's line."""
        project.steps("@pytest.mark.plan_step\ndef db(): return 1")
        project.tests("def test_it(plan): plan.state['db'] = 2")
        result = project.run()
        result.stdout.fnmatch_lines([">*plan.state?'db'? = 2", "E *StateError: key 'db' belongs*"])
        assert "/state.py" not in result.stdout.str()

    @pytest.mark.parametrize("line", ["next(iter([]))", "raise StopAsyncIteration('no match')"])
    @pytest.mark.parametrize("kind", ["def", "async def"])
    @pytest.mark.parametrize(
        "body", ["{here}", "{here}; yield", "yield; {here}", "ctx.defer(here)"]
    )
    def test_stop_iteration_shows_the_line_that_raised_it(
        self, project: Project, body: str, kind: str, line: str
    ) -> None:
        """The report shows it and the original error, which Python replaces in some functions."""
        here = "await here()" if kind == "async def" else "here()"
        lines = body.format(here=here).split("; ")
        project.steps(
            f"{kind} here():\n    {line}",
            f"@pytest.mark.plan_step\n{kind} db(ctx):\n    " + "\n    ".join(lines),
        )
        project.tests("def test_it(db): pass")
        text = project.run().stdout.str()
        assert f"\n>       {line}\n" in text
        error = "StopIteration" if line.startswith("next") else "StopAsyncIteration: no match"
        assert f"\nE       {error}\n" in text

    @pytest.mark.parametrize("style", ["short", "line", "native", "no"])
    def test_tb_style_is_respected(self, broken: Project, style: str) -> None:
        """`--tb` sets how much of the traceback is shown."""
        text = broken.run(f"--tb={style}").stdout.str()
        assert ("step 'db' failed in exec, attempt 1 of 1" in text) == (style != "no")
        assert ("conftest.py:9: in db" in text) == (style == "short")
        assert ('File "' in text) == (style == "native")

    def test_log_tail_has_everything_that_the_step_said(self, project: Project) -> None:
        """The log has the output of print, stderr, logging, ctx.log and programs."""
        project.steps(NOISY)
        project.tests("def test_it(db): pass")
        text = project.run().stdout.str()
        tail = text.partition("Captured stdout and log of plan step 'db'")[2]
        for source in SOURCES:
            assert source in tail
            assert source not in text.partition("= ERRORS =")[0]

    def test_log_tail_is_there_without_capture(self, project: Project) -> None:
        """With `-s` the output is shown live and is also in the report."""
        project.steps(NOISY)
        project.tests("def test_it(db): pass")
        text = project.run_apart("-s").stdout.str()
        live, _, report = text.partition("= ERRORS =")
        tail = report.partition("Captured stdout and log of plan step 'db'")[2]
        for source in SOURCES:
            assert source in tail
        assert "from print" in live

    def test_every_attempt_is_listed(self, project: Project) -> None:
        """The report has the error of each attempt."""
        project.steps("""
        @pytest.mark.plan_step(retries=2, retry_wait=0)
        def db(ctx):
            raise RuntimeError(f"try {ctx.attempt}")
        """)
        project.tests("def test_it(db): pass")
        project.run().stdout.fnmatch_lines(
            [
                "step 'db' failed in exec, attempt 3 of 3: RuntimeError: try 3 *",
                "attempts (3 allowed):",
                "  1  exec * RuntimeError: try 1",
                "  2  exec * RuntimeError: try 2",
                "  3  exec * RuntimeError: try 3",
            ]
        )

    def test_secret_is_masked_everywhere(self, project: Project) -> None:
        """A secret is masked in the error, the log and the source text of the output."""
        project.steps("""
        @pytest.mark.plan_step
        def password():
            return Secret("-".join(["open", "sesame"]))

        @pytest.mark.plan_step
        def db(password):
            print("logging in with", password)
            raise RuntimeError(f"wrong password {password}")
        """)
        project.tests("def test_it(db): pass")
        result = project.run("-rA", "-v")
        assert "open-sesame" not in result.stdout.str()
        result.stdout.fnmatch_lines(["E *RuntimeError: wrong password [*][*][*]"])

    def test_step_that_does_not_stop_is_shown_with_its_stack(
        self, project: Project, quick_escalation: None
    ) -> None:
        """A step that is abandoned at its timeout is reported as timed out, with its stack."""
        project.steps(
            STUCK,
            """
            @pytest.mark.plan_step(timeout="1s")
            def stuck():
                go_on.wait(30)
            """,
        )
        project.tests("def test_it(stuck): pass")
        result = project.run()
        assert result.ret == 1
        result.stdout.fnmatch_lines(
            [
                "plan: stuck  TIMED OUT *",
                "*its timeout of 1.00s*",
                "step 'stuck' did not stop when requested; stack of its abandoned thread:",
                "*go_on.wait(30)*",
            ]
        )

    def test_cancelled_step_that_does_not_stop_is_shown_with_its_stack(
        self, project: Project
    ) -> None:
        """A step that is abandoned after Ctrl-C has no report, but its stack is shown."""
        project.steps(
            STUCK,
            """
            import os, signal

            @pytest.mark.plan_step
            def stuck():
                os.kill(os.getpid(), signal.SIGINT)
                go_on.wait(30)
            """,
        )
        project.tests("def test_it(stuck): pass")
        result = project.run_apart()
        assert result.ret == pytest.ExitCode.INTERRUPTED
        result.stdout.fnmatch_lines(
            [
                "plan: stuck  cancelled *",
                "step 'stuck' did not stop when requested; stack of its abandoned thread:",
                "*go_on.wait(30)*",
            ]
        )


class TestBlocked:
    """Tests that need a failed step."""

    def test_blocked_tests_are_counted_as_blocked(self, broken: Project) -> None:
        """Blocked tests count neither as failed nor as errors, and the exit status is 1."""
        result = broken.run()
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["test_it.py b.b *", "*= 1 passed, 1 error, 2 blocked in *"])
        assert broken.calls == ["db", "free"]

    def test_verbose_says_blocked(self, broken: Project) -> None:
        """`-v` shows the word BLOCKED."""
        broken.run("-v").stdout.fnmatch_lines(
            [
                "test_it.py::test_first BLOCKED *",
                "test_it.py::test_free PASSED *",
                "test_it.py::test_second BLOCKED *",
            ]
        )

    def test_closing_line_is_red(self, broken: Project) -> None:
        """The closing line is red if all tests are blocked."""
        result = broken.run("--color=yes", "-k", "first")
        closing = result.outlines[-1]
        assert "\x1b[31m" in closing
        assert "\x1b[32m" not in closing
        assert "1 error" in closing
        assert "1 blocked" in closing

    def test_reason_is_said_once_for_all(self, broken: Project) -> None:
        """One line says how many tests each broken step blocks."""
        result = broken.run()
        reason = "2 tests blocked: plan step 'db' failed: RuntimeError: no port 5432 (conftest.py:"
        assert len([line for line in result.outlines if line.startswith(reason)]) == 1
        assert not [line for line in result.outlines if line.startswith("BLOCKED")]

    @pytest.mark.parametrize("chars", ["E", "A", "a"])
    def test_each_blocked_test_has_a_line_when_asked(self, broken: Project, chars: str) -> None:
        """`-rE`, `-rA` and `-ra` list each blocked test with its reason."""
        reason = "plan step 'db' failed: RuntimeError: no port 5432"
        lines = broken.run(f"-r{chars}").outlines
        assert [line for line in lines if line.startswith("BLOCKED")] == [
            f"BLOCKED test_it.py::test_first - {reason}",
            f"BLOCKED test_it.py::test_second - {reason}",
        ]

    def test_no_error_section_for_a_blocked_test(self, broken: Project) -> None:
        """A blocked test has no error section, because it would only repeat the step's."""
        text = broken.run("-rA").stdout.str()
        assert "ERROR at setup of test_" not in text
        assert "ERROR test_it.py" not in text
        assert "FAILED test_it.py" not in text

    def test_hundred_blocked_tests_take_few_lines(self, project: Project) -> None:
        """A broken step that blocks 100 tests prints under 60 lines."""
        project.steps(BROKEN)
        project.tests("""
        @pytest.mark.parametrize("number", range(100))
        def test_it(db, number): pass
        """)
        result = project.run()
        assert len(result.outlines) < 60
        result.stdout.fnmatch_lines(["*= 1 error, 100 blocked in *"])

    def test_no_fixture_of_a_blocked_test_runs(self, project: Project) -> None:
        """No fixture of a blocked test is set up, even if it does not need the step."""
        project.steps(BROKEN)
        project.tests("""
        @pytest.fixture(autouse=True)
        def around():
            note("fixture")
            yield
            note("teardown")

        def setup_function(): note("setup_function")
        def test_it(db): note("test")
        """)
        project.run().stdout.fnmatch_lines(["*1 error, 1 blocked*"])
        assert project.calls == ["db"]

    def test_a_failed_step_blocks_through_other_steps(self, project: Project) -> None:
        """A test is blocked if its step needs a failed step, and the reason names that step."""
        project.steps(
            BROKEN,
            """
            @pytest.mark.plan_step
            def schema(db): note("schema")

            @pytest.mark.plan_step
            def seed(schema): note("seed")
            """,
        )
        project.tests("def test_it(seed): pass")
        result = project.run("-rE")
        result.stdout.fnmatch_lines(
            ["BLOCKED test_it.py::test_it - plan step 'db' failed: RuntimeError: no port 5432"]
        )
        assert project.calls == ["db"]

    def test_order_edge_alone_does_not_block(self, project: Project) -> None:
        """A test whose own steps succeeded runs, although the plan stopped at another step."""
        project.steps("""
        @pytest.mark.plan_step
        def good():
            return 1

        @pytest.mark.plan_step
        def bad(): raise RuntimeError("no")
        """)
        project.tests("""
        def test_good(good): assert good == 1
        def test_bad(bad): pass
        """)
        project.run().stdout.fnmatch_lines(["*= 1 passed, 1 error, 1 blocked in *"])

    def test_junit_has_an_error_that_names_the_step(self, broken: Project) -> None:
        """In JUnit XML a blocked test is an `<error>`, not a `<failure>`."""
        broken.run("--junitxml=report.xml")
        suite = ET.parse(broken.path / "report.xml").getroot()[0]
        assert (suite.get("errors"), suite.get("failures")) == ("3", "0")
        messages = [error.get("message", "") for error in suite.iter("error")]
        assert messages == [
            'failed on setup with "RuntimeError: no port 5432"',
            *["failed on setup with \"Blocked: plan step 'db' failed: RuntimeError: no port 5432\""]
            * 2,
        ]

    def test_tests_run_when_their_step_succeeds_at_a_later_attempt(self, project: Project) -> None:
        """A step that succeeds after a retry blocks nothing and adds no error."""
        project.steps("""
        @pytest.mark.plan_step(retries=2, retry_wait=0)
        def db(ctx):
            if ctx.attempt < 3:
                raise RuntimeError("not yet")
            return ctx.attempt
        """)
        project.tests("def test_it(db): assert db == 3")
        result = project.run()
        assert result.ret == 0
        assert plan_lines(result)[:3] == [
            "plan: db  retry     attempt 1 of 3 failed: RuntimeError: not yet; retrying in T",
            "plan: db  retry     attempt 2 of 3 failed: RuntimeError: not yet; retrying in T",
            "plan: db  ok        T  attempt 3",
        ]


class TestOtherPlugins:
    """Blocked tests are failures for other plugins and options."""

    @pytest.mark.parametrize("option", ["-x", "--maxfail=1"])
    def test_exitfirst_stops_at_a_failed_step(self, broken: Project, option: str) -> None:
        """With `-x` no test begins after a step has failed."""
        result = broken.run(option)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["*stopping after 1 failures*", "*= 1 error in *"])
        assert broken.calls == ["db"]

    @pytest.mark.parametrize(
        ("most", "outcomes"),
        [(2, "1 failed, 1 error, 2 blocked"), (3, "2 failed, 1 error, 2 blocked")],
    )
    def test_maxfail_counts_the_step_and_no_blocked_test(
        self, broken: Project, most: int, outcomes: str
    ) -> None:
        """`--maxfail` counts a failed step once, and the tests that it blocks not at all."""
        broken.tests("""
        def test_first(db): pass
        def test_second(db): pass
        def test_third(): assert False
        def test_fourth(): assert False
        """)
        result = broken.run(f"--maxfail={most}")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines([f"*= {outcomes} in *"])

    def test_maxfail_counts_a_test_that_no_failed_step_blocks(self, project: Project) -> None:
        """A test that asks for a step that was never provisioned is a failure of its own."""
        project.steps("@pytest.mark.plan_step\ndef db(): pass")
        project.tests("""
        def test_one(request): request.getfixturevalue("db")
        def test_two(): note("two")
        """)
        result = project.run("-x")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        assert project.calls == []
        result.stdout.fnmatch_lines(
            ["*step 'db' was not provisioned: mark the test with @pytest.mark.plan('db')"]
        )

    def test_lf_remembers_blocked_tests(self, broken: Project) -> None:
        """`--lf` runs the blocked tests again, and no others."""
        broken.run()
        result = broken.run("--lf", "--collect-only", "-q")
        assert result.outlines[:2] == ["test_it.py::test_first", "test_it.py::test_second"]

    def test_sw_stops_and_goes_on_at_a_blocked_test(self, broken: Project) -> None:
        """`--sw` stops at the first blocked test and starts with it the next time."""
        broken.run("--sw").stdout.fnmatch_lines(["*Interrupted*", "*1 error, 1 blocked in *"])
        broken.steps("@pytest.mark.plan_step\ndef db(): return 1")
        result = broken.run("--sw")
        result.assert_outcomes(passed=3)

    def test_rerunfailures_counts_a_blocked_test_once(self, broken: Project) -> None:
        """`--reruns` repeats neither blocked tests nor steps, but still reruns other tests."""
        broken.tests("def test_flaky(): assert False", name="test_other.py")
        result = broken.run("-p", "pytest_rerunfailures", "--reruns=2")
        result.stdout.fnmatch_lines(["*= 1 failed, 1 passed, 1 error, 2 blocked, 2 rerun in *"])
        assert broken.calls == ["db", "free"]

    def test_rerun_of_a_test_does_not_rerun_its_step(self, project: Project) -> None:
        """A test that is rerun uses the step's existing result."""
        project.steps("@pytest.mark.plan_step\ndef db(): note('db')")
        project.tests("def test_it(db): note('test'); assert False")
        project.run("-p", "pytest_rerunfailures", "--reruns=2")
        assert project.calls == ["db", "test", "test", "test"]


class TestOutcomesOfPytest:
    """Steps that raise pytest's own exceptions."""

    def test_skip_skips_what_needs_the_step(self, project: Project) -> None:
        """pytest.skip skips the tests and steps that need the step, and the run is green."""
        project.steps("""
        @pytest.mark.plan_step
        def db(): pytest.skip("no docker here")

        @pytest.mark.plan_step
        def seed(db): note("seed")
        """)
        project.tests("""
        def test_db(db): note("test")
        def test_seed(seed): note("test")
        def test_free(): note("free")
        """)
        result = project.run("-rs")
        assert result.ret == 0
        result.assert_outcomes(passed=1, skipped=2)
        result.stdout.fnmatch_lines(
            ["SKIPPED [[]*[]] test_it.py:*: plan step 'db': no docker here"]
        )
        assert project.calls == ["free"]
        assert plan_lines(result)[:2] == [
            "plan: db    skipped   T  no docker here",
            "plan: seed  skipped   needs 'db': no docker here",
        ]

    def test_fail_fails_the_step(self, project: Project) -> None:
        """pytest.fail blocks the step's tests, and its text is the error."""
        project.steps("@pytest.mark.plan_step\ndef db(): pytest.fail('not today')")
        project.tests("def test_it(db): pass")
        result = project.run()
        assert result.ret == 1
        result.stdout.fnmatch_lines(
            ["ERROR conftest.py::db - Failed: not today", "*1 error, 1 blocked*"]
        )

    def test_fail_is_not_retried(self, project: Project) -> None:
        """A step that calls pytest.fail is not retried."""
        project.steps("""
        @pytest.mark.plan_step(retries=3, retry_wait=0)
        def db():
            note("db")
            pytest.fail("not today")
        """)
        project.tests("def test_it(db): pass")
        project.run()
        assert project.calls == ["db"]

    def test_xfail_makes_tests_expected_failures(self, project: Project) -> None:
        """pytest.xfail makes the step's tests xfailed with its reason, and the run is green."""
        project.steps("@pytest.mark.plan_step\ndef db(): pytest.xfail('bug 12')")
        project.tests("def test_it(db): note('test')")
        result = project.run("-rx")
        assert result.ret == 0
        result.assert_outcomes(xfailed=1)
        result.stdout.fnmatch_lines(["XFAIL *test_it.py::test_it - plan step 'db': bug 12"])
        assert project.calls == []

    def test_exit_ends_the_session(self, project: Project) -> None:
        """pytest.exit ends the run with its exit code, after cleanup."""
        project.steps(
            FIRST,
            "@pytest.mark.plan_step\ndef db(first): pytest.exit('the disk is full', returncode=7)",
        )
        project.tests("def test_it(db): note('test')")
        result = project.run_apart()
        assert result.ret == 7
        result.stdout.fnmatch_lines(["*_pytest.outcomes.Exit: the disk is full*"])
        assert project.calls == ["undo first"]

    def test_keyboard_interrupt_ends_the_session(self, project: Project) -> None:
        """KeyboardInterrupt ends the run as Ctrl-C does, after cleanup."""
        project.steps(FIRST, "@pytest.mark.plan_step\ndef db(first): raise KeyboardInterrupt")
        project.tests("def test_it(db): note('test')")
        result = project.run_apart()
        assert result.ret == pytest.ExitCode.INTERRUPTED
        assert project.calls == ["undo first"]
        assert "INTERNALERROR" not in result.stdout.str()

    def test_system_exit_is_never_wrapped(self, project: Project) -> None:
        """sys.exit ends the run with its exit code, after cleanup."""
        project.steps(FIRST, "@pytest.mark.plan_step\ndef db(first): raise SystemExit(9)")
        project.tests("def test_it(db): note('test')")
        result = project.run_apart()
        assert result.ret != 0
        assert project.calls == ["undo first"]

    def test_skip_in_eager_step_skips_tests(self, project: Project) -> None:
        """pytest.skip in an eager step has the same effect as in any other step."""
        project.steps("@pytest.mark.plan_step(eager=True)\ndef db(): pytest.skip('not here')")
        project.tests("def test_it(db): pass")
        result = project.run()
        assert result.ret == 0
        result.assert_outcomes(skipped=1)


class TestOptions:
    """Options that select steps and decide what happens after a failure."""

    THREE = """
    @pytest.mark.plan_step
    def bad(): raise RuntimeError("no")

    @pytest.mark.plan_step
    def after(): note("after")

    @pytest.mark.plan_step
    def child(bad): note("child")
    """
    TESTS = """
    def test_bad(bad): pass
    def test_after(after): note("test after")
    def test_child(child): pass
    """

    def test_first_failure_stops_the_plan(self, project: Project) -> None:
        """By default no step starts after a failure; the reason of blocked steps names it."""
        project.steps(self.THREE)
        project.tests(self.TESTS)
        result = project.run("-rE")
        result.stdout.fnmatch_lines(
            [
                "plan: after  blocked   step 'bad' failed",
                "plan: child  blocked   needs 'bad': failed",
                "BLOCKED test_it.py::test_after - plan step 'after' did not run: step 'bad' failed",
                "*1 error, 3 blocked*",
            ]
        )
        assert project.calls == []

    def test_continue_on_error_blocks_only_needs(self, project: Project) -> None:
        """`--plan-continue-on-error` continues with all steps that do not need the failed one."""
        project.steps(self.THREE)
        project.tests(self.TESTS)
        result = project.run("--plan-continue-on-error")
        result.stdout.fnmatch_lines(["*= 1 passed, 1 error, 2 blocked in *"])
        assert result.ret == 1
        assert project.calls == ["after", "test after"]

    CHAIN = """
    @pytest.mark.plan_step
    def net(): note("net")

    @pytest.mark.plan_step
    def db(net): note("db")

    @pytest.mark.plan_step
    def seed(db): note("seed")

    @pytest.mark.plan_step
    def last(): note("last")
    """
    CHAIN_TESTS = """
    def test_free(): note("free")
    def test_net(net): note("test net")
    def test_seed(seed): note("test seed")
    def test_last(last): note("test last")
    """

    def test_until_runs_a_step_and_its_needs(self, project: Project) -> None:
        """`--plan-until` skips tests that need further steps, with a reason."""
        project.steps(self.CHAIN)
        project.tests(self.CHAIN_TESTS)
        result = project.run("--plan-until", "db", "-rs")
        assert result.ret == 0
        result.assert_outcomes(passed=2, skipped=2)
        assert project.calls == ["net", "db", "free", "test net"]
        result.stdout.fnmatch_lines(["SKIPPED * test_it.py:*: *--plan-until db*"])

    def test_until_runs_the_step_even_when_no_test_needs_it(self, project: Project) -> None:
        """`--plan-until` runs the step and its needs even if no test needs them."""
        project.steps(self.CHAIN)
        project.tests("def test_free(): note('free')")
        project.run("--plan-until", "db")
        assert project.calls == ["net", "db", "free"]

    def test_skip_is_as_if_the_step_had_skipped(self, project: Project) -> None:
        """`--plan-skip` skips the step and the tests and steps that need it; the rest runs."""
        project.steps(self.CHAIN)
        project.tests(self.CHAIN_TESTS)
        result = project.run("--plan-skip", "db", "-rs")
        assert result.ret == 0
        result.assert_outcomes(passed=3, skipped=1)
        assert project.calls == ["net", "last", "free", "test net", "test last"]
        result.stdout.fnmatch_lines(["SKIPPED * test_it.py:*: plan step 'db': --plan-skip db"])

    def test_skip_may_be_given_twice(self, project: Project) -> None:
        """`--plan-skip` can be repeated to skip several steps."""
        project.steps(self.CHAIN)
        project.tests(self.CHAIN_TESTS)
        project.run("--plan-skip", "db", "--plan-skip=last").assert_outcomes(passed=2, skipped=2)

    def test_jobs_is_the_most_that_run_at_once(self, project: Project) -> None:
        """With `--plan-jobs 1` steps run one at a time, in the order of declaration."""
        project.steps("""
        import time
        for name in "abc":
            def step(ctx, name=name):
                note("begin", name)
                time.sleep(0.02)
                note("end", name)
            step.__name__ = name
            globals()[name] = pytest.mark.plan_step(needs=(), autouse=True)(step)
        del step
        """)
        project.tests("def test_it(): pass")
        project.run("--plan-jobs=1").assert_outcomes(passed=1)
        assert project.calls == [f"{what} {name}" for name in "abc" for what in ("begin", "end")]

    def test_independent_steps_run_at_the_same_time(self, project: Project) -> None:
        """Without `--plan-jobs` eight independent steps run at the same time."""
        project.steps("""
        import threading
        barrier = threading.Barrier(8, timeout=20)
        for number in range(8):
            def step():
                barrier.wait()
            step.__name__ = f"s{number}"
            globals()[step.__name__] = pytest.mark.plan_step(needs=(), autouse=True)(step)
        del step
        """)
        project.tests("def test_it(): pass")
        project.run().assert_outcomes(passed=1)

    def test_limit_stops_provisioning(self, project: Project) -> None:
        """When `--plan-limit` passes, the running step times out and its tests are blocked."""
        project.steps(
            FIRST,
            """
            @pytest.mark.plan_step
            def slow(first, ctx):
                ctx.sleep(60)

            @pytest.mark.plan_step
            def never(slow): note("never")
            """,
        )
        project.tests("def test_it(never): note('test')")
        result = project.run("--plan-limit=100ms")
        assert result.ret == 1
        result.stdout.fnmatch_lines(
            [
                "plan: stopping: the plan's limit of 0.10s has passed",
                "plan: slow   TIMED OUT *the plan's limit of 0.10s has passed",
                "1 test blocked: plan step 'slow' timed out: *the plan's limit of 0.10s has*",
                "ERROR conftest.py::slow - PlanTimeoutError: the plan's limit of 0.10s has passed*",
                "*= 1 error, 1 blocked in *",
            ]
        )
        assert project.calls == ["undo first"]

    def test_limit_that_holds_changes_nothing(self, project: Project) -> None:
        """A limit that is not reached is only visible in `plan.remaining()`."""
        project.steps("@pytest.mark.plan_step\ndef db(): pass")
        project.tests("def test_it(plan): assert 50 < plan.remaining() <= 60")
        project.run("--plan-limit=1m").assert_outcomes(passed=1)


class TestCleanup:
    """Failed cleanups."""

    FAILING = """
    @pytest.mark.plan_step(needs=())
    def good():
        yield 1
        note("undo good")

    @pytest.mark.plan_step(needs=())
    def bad():
        yield 2
        raise RuntimeError("disk is gone")
    """

    def test_green_run_becomes_red(self, project: Project) -> None:
        """A failed cleanup is reported in full, and the exit status is 1."""
        project.steps(self.FAILING)
        project.tests("def test_it(good, bad): pass")
        result = project.run()
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        assert project.calls == ["undo good"]
        result.stdout.fnmatch_lines(
            [
                "plan: bad   cleanup FAILED *RuntimeError: disk is gone",
                "*_ ERROR at teardown of plan step 'bad' _*",
                "step 'bad' failed in cleanup: RuntimeError: disk is gone (conftest.py:*)",
                "E *RuntimeError: disk is gone",
                "ERROR conftest.py::bad - RuntimeError: disk is gone",
                "*= 1 passed, 1 error in *",
            ]
        )
        assert "\x1b[31m" in project.run("--color=yes").outlines[-1]

    def test_failed_cleanup_does_not_hide_failed_tests(self, project: Project) -> None:
        """A failed cleanup does not change the report or the exit status of failed tests."""
        project.steps(self.FAILING)
        project.tests("def test_it(good, bad): assert good == bad")
        result = project.run()
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["FAILED test_it.py::test_it*", "*= 1 failed, 1 error in *"])

    def test_cleanup_that_takes_too_long_is_reported_as_abandoned(
        self, project: Project, quick_escalation: None
    ) -> None:
        """A cleanup that exceeds its cleanup_timeout is reported, and the run fails."""
        project.steps(
            STUCK,
            """
            @pytest.mark.plan_step(cleanup_timeout="50ms")
            def stuck():
                yield
                go_on.wait(30)
            """,
        )
        project.tests("def test_it(stuck): pass")
        result = project.run()
        assert result.ret == 1
        result.stdout.fnmatch_lines(
            ["plan: stuck  cleanup ABANDONED *not undone: code after its yield*", "*1 error*"]
        )

    def test_cleanup_limit_bounds_all_cleanups(self, project: Project) -> None:
        """`--plan-cleanup-limit` bounds the time of all cleanups together."""
        project.steps("""
        def wait(ctx):
            ctx.sleep(60)

        @pytest.mark.plan_step(cleanup=wait)
        def slow():
            pass
        """)
        project.tests("def test_it(slow): pass")
        result = project.run("--plan-cleanup-limit=50ms")
        assert result.ret == 1
        result.stdout.fnmatch_lines(["plan: slow  cleanup TIMED OUT *"])

    def test_failed_step_still_undoes_what_it_deferred(self, project: Project) -> None:
        """The deferred calls of a failed step run, even though it failed."""
        project.steps("""
        @pytest.mark.plan_step
        def db(ctx):
            ctx.defer(note, "deferred")
            raise RuntimeError("half made")
        """)
        project.tests("def test_free(): note('free')\ndef test_it(db): pass")
        project.run()
        assert project.calls == ["free", "deferred"]

    def test_failed_sessionfinish_of_another_plugin_does_not_stop_cleanup(
        self, project: Project
    ) -> None:
        """Cleanup runs after all other pytest_sessionfinish hooks, even if one raises."""
        project.steps("""
        @pytest.mark.plan_step
        def db():
            yield
            note("undo")

        def pytest_sessionfinish():
            raise RuntimeError("not mine")
        """)
        project.tests("def test_it(db): pass")
        project.run_apart()
        assert project.calls == ["undo"]

    def test_session_fixtures_end_before_cleanup(self, project: Project) -> None:
        """The teardown of a session fixture can still use the step."""
        project.steps("""
        @pytest.mark.plan_step
        def db():
            yield 1
            note("undo db")

        @pytest.fixture(scope="session")
        def client(db):
            yield db
            note("teardown client")
        """)
        project.tests("def test_it(client): pass")
        project.run().assert_outcomes(passed=1)
        assert project.calls == ["teardown client", "undo db"]


def test_usage_error_is_no_failure_of_a_step(project: Project) -> None:
    """A plan that cannot run is a usage error, not a failed step."""
    project.steps("@pytest.mark.plan_step(needs=['dbb'])\ndef seed(): note('seed')")
    project.tests("def test_it(seed): pass")
    refuses(project.run_apart(), "needs an unknown step 'dbb'")
    assert project.calls == []
