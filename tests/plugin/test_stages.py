"""Stages: tests between steps, in a process that runs its tests itself."""

from __future__ import annotations

import json

import pytest

from tests.plugin.project import Project, plan_lines, refuses

STEPS = """
@pytest.mark.plan_step
def app(ctx):
    note("app")
    yield 1
    note("undo app")

@pytest.mark.plan_step(after_tests=True)
def upgraded(app):
    note("upgraded")
    yield 2
    note("undo upgraded")

@pytest.fixture(scope="module")
def module():
    note("module")
    yield
    note("undo module")

@pytest.fixture(scope="session")
def session():
    note("session")
    yield
    note("undo session")

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    note(item.name)
"""
TESTS = """
def test_up(upgraded, module): pass
def test_v1(app, module, session): pass
def test_any(plan): assert plan.results["upgraded"].outcome == "succeeded"
def test_none(): pass
"""


@pytest.fixture
def shop(project: Project) -> Project:
    """A project with an app, an upgrade of the app, and tests of both."""
    project.steps(STEPS)
    project.tests(TESTS)
    return project


class TestOrder:
    """What comes before what."""

    def test_a_step_begins_when_every_test_that_does_not_need_it_has_ended(
        self, shop: Project
    ) -> None:
        """Fixtures of modules end with the stage, those of the session with the run."""
        result = shop.run()
        result.assert_outcomes(passed=4)
        first = ["app", "session", "module", "test_v1", "test_none", "undo module"]
        second = ["upgraded", "module", "test_up", "test_any", "undo module", "undo session"]
        assert shop.calls == [*first, *second, "undo upgraded", "undo app"]
        assert plan_lines(result)[:3] == [
            "plan: app       ok        T",
            "plan: stage 2 of 2: 2 tests have ended; provisioning upgraded",
            "plan: upgraded  ok        T",
        ]

    def test_a_stage_without_tests_does_not_exist(self, shop: Project) -> None:
        """Its steps are provisioned with those of the next stage, and no line is printed."""
        result = shop.run("-k", "up")
        result.assert_outcomes(passed=1, deselected=3)
        assert shop.calls[:4] == ["app", "upgraded", "module", "test_up"]
        assert "stage" not in "".join(plan_lines(result))

    def test_steps_after_the_last_selected_test_do_not_begin(self, shop: Project) -> None:
        """No test needs them."""
        shop.run("-k", "v1 or none").assert_outcomes(passed=2, deselected=2)
        assert "upgraded" not in shop.calls

    @pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["solo", "xdist"])
    def test_a_step_that_only_an_option_asks_for(
        self, shop: Project, workers: tuple[str, ...]
    ) -> None:
        """`--plan-until` provisions it after all tests, if no selected test needs it."""
        result = shop.run_apart("-k", "v1 or none", "--plan-until", "upgraded", *workers)
        assert result.ret == 0
        assert shop.calls.index("test_v1") < shop.calls.index("upgraded")
        assert "plan: all tests have ended; provisioning upgraded" in result.outlines

    def test_after_all_other_plugins_have_sorted(self, shop: Project) -> None:
        """Within a stage, the order of other plugins stays."""
        shop.steps(STEPS, "def pytest_collection_modifyitems(items): items.reverse()")
        shop.run().assert_outcomes(passed=4)
        tests = [call for call in shop.calls if call.startswith("test_")]
        assert tests == ["test_none", "test_v1", "test_any", "test_up"]

    def test_an_error_in_a_fixture_that_ends_with_a_stage(self, shop: Project) -> None:
        """It is reported, and counts for `--maxfail` before the next stage begins."""
        shop.tests(
            """
            @pytest.fixture(scope="module")
            def broken():
                yield
                raise RuntimeError("cannot end")

            def test_up(upgraded): pass
            def test_v1(app, broken): pass
            """
        )
        result = shop.run("-x")
        result.assert_outcomes(passed=1, errors=1)
        result.stdout.fnmatch_lines(["*RuntimeError: cannot end*"])
        assert "upgraded" not in shop.calls
        shop.run().assert_outcomes(passed=2, errors=1)


class TestFailures:
    """What a failure in one stage means for the next."""

    def test_a_failed_test_stops_the_next_stage_only_with_maxfail(self, shop: Project) -> None:
        """`-x` ends the session; without it, the next stage begins."""
        shop.tests(TESTS, "def test_bad(app): assert 0")
        shop.run("-x").assert_outcomes(passed=2, failed=1)
        assert "upgraded" not in shop.calls
        shop.run().assert_outcomes(passed=4, failed=1)
        assert "upgraded" in shop.calls
        shop.run("--lf").assert_outcomes(failed=1)

    def test_a_failed_step_of_a_later_stage(self, shop: Project) -> None:
        """Its tests are blocked, and earlier results stay."""
        shop.steps(STEPS.replace('note("upgraded")', "raise ValueError('no upgrade')"))
        result = shop.run()
        assert result.ret == 1
        result.stdout.fnmatch_lines(["*no upgrade*", "*2 passed, 1 error, 2 blocked*"])
        result = shop.run("-x")
        result.stdout.fnmatch_lines(["*2 passed, 1 error*"])

    def test_a_skipped_step_of_a_later_stage(self, shop: Project) -> None:
        """`--plan-skip` skips the tests that need it."""
        shop.run("--plan-skip", "upgraded").assert_outcomes(passed=2, skipped=2)
        assert "upgraded" not in shop.calls

    def test_the_limit_ends_the_session_between_stages(self, shop: Project) -> None:
        """After the limit, no further step begins."""
        shop.tests(
            """
            def test_v1(app): pass
            def test_up(upgraded): pass
            @pytest.fixture(scope="module", autouse=True)
            def waits():
                yield
                import time
                time.sleep(1.2)
            """
        )
        result = shop.run("--plan-limit", "1s")
        assert result.ret == 1
        result.stdout.fnmatch_lines(["*plan's limit of 1.00s has passed*"])
        assert "upgraded" not in shop.calls


class TestReports:
    """How reports show stages."""

    def test_the_plan_is_shown_by_stage(self, shop: Project) -> None:
        """A test that is in the last stage only because it takes `plan` is marked."""
        shop.tests(TESTS, "@pytest.mark.plan_alone(reason='slow')\ndef test_lone(app): pass")
        result = shop.run("--plan-show")
        lines = result.outlines
        assert lines[lines.index("stage 1 of 2 begins with app") :][:17] == [
            "stage 1 of 2 begins with app",
            "",
            "2 tests need app:",
            "  test_it.py::test_v1",
            "  test_it.py::test_lone  (runs alone: slow)",
            "",
            "1 test needs no step:",
            "  test_it.py::test_none",
            "",
            "stage 2 of 2 begins with upgraded",
            "",
            "1 test needs upgraded:",
            "  test_it.py::test_up",
            "",
            "1 test needs app, upgraded:",
            "  test_it.py::test_any  (here only because it needs every step; "
            "@pytest.mark.plan(...) narrows that)",
            "nothing was run",
        ]

    def test_reports_have_the_stages_of_steps_and_tests(self, shop: Project) -> None:
        """JSON counts the tests of each stage; each JUnit case has a property."""
        shop.tests(TESTS, "def test_bad(app): assert 0")
        shop.run("--plan-report", "plan.json", "--junitxml", "junit.xml")
        report = json.loads((shop.path / "plan.json").read_text())
        assert [(step["name"], step["stage"]) for step in report["steps"]] == [
            ("app", 1),
            ("upgraded", 2),
        ]
        by_stage = report["tests"]["by_stage"]
        assert [(one["passed"], one["failed"]) for one in by_stage] == [(2, 1), (2, 0)]
        junit = (shop.path / "junit.xml").read_text()
        counts = [junit.count(f'<property name="plan_stage" value="{stage}"') for stage in (1, 2)]
        assert counts == [3, 2]
        shop.run("--plan-report", "plan.json", "-k", "up")
        report = json.loads((shop.path / "plan.json").read_text())
        assert [step["stage"] for step in report["steps"]] == [1, 1]
        assert "by_stage" not in report["tests"]


class TestEarlyRequests:
    """A test that asks for a step of a later stage."""

    def test_it_fails_and_spoils_nothing(self, shop: Project) -> None:
        """The message says why, and later tests get the value, also through a session fixture."""
        shop.tests(
            """
            REASON = "step 'upgraded' was not provisioned: it comes after the tests that do not"

            @pytest.fixture(scope="session")
            def client(request): return request.getfixturevalue("upgraded")

            @pytest.mark.plan("app")
            def test_early(request, plan):
                for name in ("upgraded", "client"):
                    with pytest.raises(pytest.fail.Exception, match=REASON):
                        request.getfixturevalue(name)
                with pytest.raises(pytest.fail.Exception, match=REASON):
                    plan.need("upgraded")
                for ask in (plan.state.__getitem__, plan.state.wait_for):
                    with pytest.raises(KeyError, match=REASON):
                        ask("upgraded")
                assert plan.state.get("upgraded") is None
                assert "upgraded" not in plan.state
                assert plan.results["upgraded"].outcome == "pending"

            def test_late(request, upgraded, plan):
                assert request.getfixturevalue("client") == plan.state["upgraded"] == 2
                assert plan.state.wait_for("upgraded") == 2
            """
        )
        shop.run().assert_outcomes(passed=2)


class TestEach:
    """The mark `plan_each`."""

    def test_a_test_runs_once_with_each_step(self, shop: Project) -> None:
        """It needs that step alone, although it takes `plan`; an inner mark overrides an outer."""
        shop.tests(
            """
            pytestmark = pytest.mark.plan_each("app", "upgraded")

            def test_login(plan_step_name, plan):
                plan.need(plan_step_name)
                assert plan.results["upgraded"].outcome.provides == (plan_step_name == "upgraded")
            def test_plain(): pass
            @pytest.mark.parametrize("x", [1, 2])
            @pytest.mark.plan_each("app")
            def test_inner(x): pass
            """
        )
        shop.run("-v").assert_outcomes(passed=6)
        assert [call for call in shop.calls if call.startswith("test_") or call == "upgraded"] == [
            "test_login[app]",
            "test_plain[app]",
            "test_inner[app-1]",
            "test_inner[app-2]",
            "upgraded",
            "test_login[upgraded]",
            "test_plain[upgraded]",
        ]

    @pytest.mark.parametrize(
        ("test", "texts"),
        [
            (
                "@pytest.mark.plan_each()\ndef test_it(): pass",
                ["@pytest.mark.plan_each of test_it.py::test_it takes the names of one or more"],
            ),
            (
                "@pytest.mark.plan_each(['app'])\ndef test_it(): pass",
                ["such as @pytest.mark.plan_each('app', 'upgraded')"],
            ),
            (
                "def test_it(plan_step_name): pass",
                ["test_it.py::test_it takes plan_step_name, but has no mark: add @pytest.mark"],
            ),
        ],
    )
    def test_bad_input(self, shop: Project, test: str, texts: list[str]) -> None:
        """The message says what to write instead."""
        shop.tests(test)
        result = shop.run()
        assert result.ret != 0
        for text in texts:
            assert text in result.stdout.str()

    def test_an_unknown_step(self, shop: Project) -> None:
        """The message names the mark and suggests a step."""
        shop.tests("@pytest.mark.plan_each('app', 'upgradet')\ndef test_it(): pass")
        refuses(
            shop.run(),
            "@pytest.mark.plan_each names an unknown step 'upgradet'; did you mean 'upgraded'",
        )

    def test_a_project_without_steps(self, project: Project) -> None:
        """The mark cannot mean anything there."""
        project.tests("@pytest.mark.plan_each('app')\ndef test_it(): pass")
        result = project.run()
        assert result.ret != 0
        assert "plan_each of test_it.py::test_it names 'app', but no step is declared" in (
            result.stdout.str()
        )


def test_tests_that_run_alone_come_last_in_their_stage(shop: Project) -> None:
    """The mark works on functions, classes and modules."""
    alone = "pytestmark = pytest.mark.plan_alone(reason='it restarts the server')"
    shop.tests("@pytest.mark.plan_alone\ndef test_first(app): pass", TESTS)
    shop.tests(alone, "def test_alone(): pass\ndef test_late(upgraded): pass", name="test_a.py")
    shop.run().assert_outcomes(passed=7)
    assert [call for call in shop.calls if call.startswith("test_")] == [
        "test_v1",
        "test_none",
        "test_alone",
        "test_first",
        "test_up",
        "test_any",
        "test_late",
    ]


@pytest.mark.parametrize("options", ["eager=True", "autouse=True"])
def test_contradicting_options(project: Project, options: str) -> None:
    """The message has the step, its place and both options."""
    project.steps(f"@pytest.mark.plan_step(after_tests=True, {options})\ndef up(): pass")
    project.tests("def test_it(up): pass")
    other = options.partition("=")[0]
    refuses(project.run(), f"step 'up' (conftest.py:5) has both after_tests and {other}, but")


def test_two_steps_that_wait_for_the_same_tests(project: Project) -> None:
    """The message has both steps and their places."""
    declare = "@pytest.mark.plan_step(after_tests=True, needs=())\ndef {}(): pass"
    project.steps(declare.format("one"), declare.format("two"))
    project.tests("def test_it(one, two): pass")
    refuses(project.run(), "steps 'one' (conftest.py:5) and 'two' (conftest.py:8) both have")


def test_steps_that_wait_for_tests_are_never_eager(shop: Project) -> None:
    """`plan_eager` makes all other steps eager."""
    shop.run("-o", "plan_eager=true").assert_outcomes(passed=4)
    assert shop.calls[0] == "app"
    assert shop.calls.index("test_none") < shop.calls.index("upgraded")


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["solo", "xdist"])
def test_a_step_after_tests_is_reused_only_if_no_test_before_it_runs(
    project: Project, workers: tuple[str, ...]
) -> None:
    """Otherwise it and what it has changed are rebuilt; the lines say so."""
    project.steps(
        """
        def undo_app(): note("undo app")
        def undo_upgraded(): note("undo upgraded")

        @pytest.mark.plan_step(needs=(), cleanup=undo_app)
        def app(): note("app")

        @pytest.mark.plan_step(after_tests=True, cleanup=undo_upgraded)
        def upgraded(app): note("upgraded")

        @pytest.mark.plan_step(needs=())
        def index(): note("index")
        """
    )
    project.tests(
        """
        def test_v1(app): note("v1")
        def test_up(upgraded): note("up")
        def test_index(index): note("test")
        """
    )

    def run(*args: str) -> tuple[list[str], str]:
        (project.path / "calls.txt").unlink(missing_ok=True)
        result = project.run_apart(*args, *workers)
        assert result.ret == 0, result.stdout.str() + result.stderr.str()
        return project.calls, result.stdout.str()

    run("--plan-keep", "always")
    calls, output = run("--plan-reuse", "-k", "up or index")
    assert sorted(calls) == ["test", "up"]
    assert "rebuilt" not in output
    calls, output = run("--plan-reuse")
    assert [call for call in calls if call != "test"] == [
        *("undo upgraded", "undo app", "app", "v1", "upgraded", "up")
    ]
    assert "plan: upgraded is rebuilt: selected tests run before it" in output
    assert (
        "plan: app is rebuilt: 'upgraded' has changed it, and selected tests run before 'upgraded'"
    ) in output
    calls, output = run("--plan-reuse", "-k", "v1")
    assert calls == ["undo upgraded", "undo app", "app", "v1"]
    conftest = project.path / "conftest.py"
    run("--plan-reuse", "-k", "up")
    conftest.write_text(conftest.read_text().replace('note("upgraded")', 'note("new")'))
    calls, output = run("--plan-reuse", "-k", "up")
    assert calls == ["undo upgraded", "undo app", "app", "new", "up"]
    assert "plan: app is rebuilt: 'upgraded', which is rebuilt, has changed it" in output
    run("--plan-cleanup")
