"""When the plan runs, and when it does not."""

from __future__ import annotations

import os

import pytest

from tests.plugin.project import Project, plan_lines, refuses

STEP = """
@pytest.mark.plan_step
def db():
    note("db")
    yield 1
    note("undo")
"""
TEST = "def test_it(db): note('test')"
NONE_NEEDED = "plan: no selected test needs a step"


@pytest.fixture
def one(project: Project) -> Project:
    """A project with one step and a test that needs it."""
    project.steps(STEP)
    project.tests(TEST)
    return project


class TestNothingRuns:
    """If no test runs, no step runs."""

    @pytest.mark.parametrize(
        ("args", "status"),
        [
            (["--collect-only"], 0),
            (["--collect-only", "-q"], 0),
            (["--fixtures"], 0),
            (["--markers"], 0),
            (["--help"], 0),
            (["--version"], 0),
            (["--cache-show"], 0),
            (["-k", "nothing"], pytest.ExitCode.NO_TESTS_COLLECTED),
            (["-m", "filterwarnings"], pytest.ExitCode.NO_TESTS_COLLECTED),
            (["--deselect", "test_it.py"], pytest.ExitCode.NO_TESTS_COLLECTED),
            (["test_absent.py"], pytest.ExitCode.USAGE_ERROR),
            (["--no-such-option"], pytest.ExitCode.USAGE_ERROR),
            (["--plan-show"], 0),
            (["--setup-plan"], 0),
        ],
    )
    def test_option(self, one: Project, args: list[str], status: int) -> None:
        """Options that run no test provision nothing, not even eager steps."""
        early = "@pytest.mark.plan_step(eager=True, needs=())\ndef early(): note('early')"
        one.steps(STEP, early)
        result = one.run(*args)
        assert result.ret == status
        # before collection it is not known that no test will be selected
        knew = status == 0 or "--no-such-option" in args
        assert one.calls == ([] if knew else ["early"])

    def test_collection_error(self, one: Project) -> None:
        """A module that cannot be imported stops the run before the plan."""
        one.tests("import no_such_module", name="test_broken.py")
        result = one.run()
        assert result.ret == pytest.ExitCode.INTERRUPTED
        assert one.calls == []

    def test_collection_error_that_is_continued(self, one: Project) -> None:
        """With `--continue-on-collection-errors` the other tests run, and so does the plan."""
        one.tests("import no_such_module", name="test_broken.py")
        one.run("--continue-on-collection-errors")
        assert one.calls == ["db", "test", "undo"]

    def test_no_test_needs_a_step(self, one: Project) -> None:
        """If no test needs a step, one line says so and there is no summary table."""
        one.tests("def test_it(): note('test')")
        result = one.run()
        result.assert_outcomes(passed=1)
        assert one.calls == ["test"]
        assert plan_lines(result) == [NONE_NEEDED]
        assert "= plan =" not in result.stdout.str()

    def test_no_step_is_declared(self, project: Project) -> None:
        """Nothing is printed in a project without steps."""
        project.tests("def test_it(): pass")
        result = project.run()
        assert plan_lines(result) == []
        assert "= plan =" not in result.stdout.str()

    def test_line_is_not_said_when_quiet(self, one: Project) -> None:
        """With `-q` no line says that no test needs a step."""
        one.tests("def test_it(): pass")
        assert plan_lines(one.run("-q")) == []

    def test_nothing_is_left_on_disk(self, one: Project) -> None:
        """A green run without artifacts leaves the history, and without it no folder at all."""
        before = {path.name for path in one.path.iterdir()}
        one.run("-p", "no:cacheprovider", "-o", "plan_record_history=false")
        assert {path.name for path in one.path.iterdir()} - before == {"calls.txt"}
        one.run("-p", "no:cacheprovider")
        left = {path.name for path in (one.path / ".pytest_plan").iterdir()}
        assert left == {".gitignore", "CACHEDIR.TAG", "history"}


class TestOnce:
    """The plan runs once, around all tests."""

    def test_before_the_first_and_after_the_last_test(self, one: Project) -> None:
        """Steps run before the first test and are cleaned up after the last."""
        one.tests("def test_other(db): note('other')", name="test_other.py")
        one.run().assert_outcomes(passed=2)
        assert one.calls == ["db", "test", "other", "undo"]

    def test_provisioning_is_no_part_of_a_test(self, one: Project) -> None:
        """Provisioning does not count as part of any test's duration."""
        one.steps("import time\n@pytest.mark.plan_step\ndef db(): time.sleep(0.3)")
        result = one.run("--durations=0", "-vv")
        durations = [line for line in result.outlines if line.endswith("test_it.py::test_it")]
        assert len(durations) == 3
        assert all(float(line.split("s ")[0]) < 0.3 for line in durations)

    def test_setup_only_runs(self, one: Project) -> None:
        """`--setup-only` provisions, because it sets up fixtures."""
        result = one.run("--setup-only")
        assert result.ret == 0
        assert one.calls == ["db", "undo"]
        result.stdout.fnmatch_lines(["*SETUP    S db*"])

    def test_setup_show_runs(self, one: Project) -> None:
        """`--setup-show` provisions as usual and shows the step's fixture."""
        one.run("--setup-show").stdout.fnmatch_lines(["*SETUP    S db*", "*fixtures used: db*"])
        assert one.calls == ["db", "test", "undo"]

    def test_exit_in_a_test_still_cleans_up(self, one: Project) -> None:
        """pytest.exit in a test ends the run with its exit code, after cleanup."""
        one.tests("def test_it(db): pytest.exit('enough', returncode=5)")
        assert one.run_apart().ret == 5
        assert one.calls == ["db", "undo"]

    def test_keyboard_interrupt_in_a_test_still_cleans_up(self, one: Project) -> None:
        """Ctrl-C in a test ends the run with status 2, after cleanup."""
        one.tests("def test_it(db): raise KeyboardInterrupt")
        assert one.run_apart().ret == pytest.ExitCode.INTERRUPTED
        assert one.calls == ["db", "undo"]

    def test_internal_error_still_cleans_up(self, one: Project) -> None:
        """Cleanup runs although another plugin crashes while tests run."""
        one.steps(STEP, "def pytest_runtest_logfinish(): raise RuntimeError('crash')")
        assert one.run_apart().ret == pytest.ExitCode.INTERNAL_ERROR
        assert one.calls == ["db", "test", "undo"]


class TestShow:
    """`--plan-show` and `--setup-plan` print the plan."""

    STEPS = """
    @pytest.mark.plan_step
    def net(): note("net")

    @pytest.mark.plan_step(retries=2, timeout="1m", autouse=False)
    def db(): note("db")

    @pytest.mark.plan_step(needs=["net"])
    def seed(db): note("seed")

    @pytest.mark.plan_step(needs=["seed"])
    def user(): note("user")

    @pytest.mark.plan_step
    def store(db): note("store")

    @pytest.mark.plan_step(needs=())
    def alone(): note("alone")
    """
    TESTS = """
    def test_seed(seed): note("test")
    @pytest.mark.parametrize("number", [1, 2])
    def test_db(db, number): note("test")
    def test_free(): note("test")
    """
    PLAN = (
        "*= plan =*",
        "net           no dependencies",
        "                conftest.py:6",
        "db            after net",
        "│               retries=2  timeout=1m 00s  conftest.py:9",
        "├── seed      needs net, db",
        "│   │           conftest.py:12",
        "│   └── user  needs seed  (not needed)",
        "│               conftest.py:15",
        "└── store     needs db  (not needed)",
        "                conftest.py:18",
        "alone         no dependencies  (not needed)",
        "                conftest.py:21",
        "1 test needs seed:",
        "  test_it.py::test_seed",
        "2 tests need db:",
        "  test_it.py::test_db[[]1[]]",
        "  test_it.py::test_db[[]2[]]",
        "1 test needs no step:",
        "  test_it.py::test_free",
        "nothing was run",
    )

    def test_plan_show(self, project: Project) -> None:
        """`--plan-show` prints steps and the tests that need them, and runs nothing."""
        project.steps(self.STEPS)
        project.tests(self.TESTS)
        result = project.run("--plan-show")
        assert result.ret == 0
        result.stdout.fnmatch_lines([*self.PLAN])
        assert project.calls == []

    def test_setup_plan(self, project: Project) -> None:
        """`--setup-plan` prints the plan before pytest's own plan of fixtures."""
        project.steps(self.STEPS)
        project.tests(self.TESTS)
        result = project.run("--setup-plan")
        assert result.ret == 0
        result.stdout.fnmatch_lines([*self.PLAN[:-1], "SETUP    S seed", "*test_it.py::test_seed*"])
        assert project.calls == []

    def test_selection_decides_what_is_needed(self, project: Project) -> None:
        """A step that only deselected tests need is marked as not needed."""
        project.steps(self.STEPS)
        project.tests(self.TESTS)
        project.run("--plan-show", "-k", "test_db").stdout.fnmatch_lines(
            ["net  *no dependencies", "db  *after net", "*seed  *needs net, db  (not needed)"]
        )

    def test_skipped_and_late_steps_are_shown(self, project: Project) -> None:
        """The plan includes steps of conftests in folders, and marks steps of `--plan-skip`."""
        project.steps("@pytest.mark.plan_step\ndef net(): pass")
        project.steps("@pytest.mark.plan_step\ndef late(): pass", name="unit/conftest.py")
        project.tests("def test_unit(late): pass", name="unit/test_unit.py")
        project.run("--plan-show", "--plan-skip", "net", ".").stdout.fnmatch_lines(
            ["net   no dependencies", "*skipped: --plan-skip net*", "late  after net"]
        )

    def test_no_steps_are_declared(self, project: Project) -> None:
        """`--plan-show` in a project without steps says so."""
        project.tests("def test_it(): note('test')")
        result = project.run("--plan-show")
        assert result.ret == 0
        result.stdout.fnmatch_lines(["no steps are declared", "1 test needs no step:"])
        assert project.calls == []

    def test_no_tests_are_collected(self, project: Project) -> None:
        """The plan is printed even if no test is collected."""
        project.steps(self.STEPS)
        project.run("--plan-show").stdout.fnmatch_lines(["net *(not needed)", "nothing was run"])

    def test_quiet_does_not_hide_the_plan(self, project: Project) -> None:
        """`-q` does not hide the plan."""
        project.steps(self.STEPS)
        project.tests(self.TESTS)
        project.run("--plan-show", "-q").stdout.fnmatch_lines(["net  *no dependencies"])

    def test_terminal_that_cannot_draw_gets_ascii(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In Windows-1252 and ASCII the tree is drawn with ASCII characters."""
        project.steps(self.STEPS)
        monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
        result = project.run_apart("--plan-show", "-s")
        result.stdout.fnmatch_lines(["db  *", "|-- seed  *", "|   `-- user  *", "`-- store *"])


class TestEager:
    """Steps that run before collection."""

    STEP = """
    @pytest.mark.plan_step(eager=True)
    def web(ctx):
        note("web")
        ctx.setenv("WEB", "http://here")
        yield
        note("undo web")
    """

    def test_environment_is_there_at_import(self, project: Project) -> None:
        """A test module can read at import what an eager step has set."""
        project.steps(self.STEP)
        project.tests("""
        WEB = os.environ["WEB"]
        note("import")
        @pytest.mark.parametrize("url", [os.environ["WEB"]])
        def test_it(url): assert url == WEB == os.environ["WEB"] == "http://here"
        """)
        project.run().assert_outcomes(passed=1)
        assert project.calls == ["web", "import", "undo web"]
        assert "WEB" not in os.environ

    def test_eager_step_brings_its_needs(self, project: Project) -> None:
        """The needs of an eager step also run before collection; other steps do not."""
        project.steps("""
        @pytest.mark.plan_step
        def net(): note("net"); return 1

        @pytest.mark.plan_step
        def other(): note("other")

        @pytest.mark.plan_step(eager=True)
        def web(net): note("web"); return net
        """)
        project.tests("note('import')\ndef test_it(web, other): note('test', web)")
        project.run().assert_outcomes(passed=1)
        assert project.calls == ["net", "web", "import", "other", "test 1"]

    def test_eager_step_runs_once(self, project: Project) -> None:
        """An eager step does not run again when the other steps are provisioned."""
        project.steps(self.STEP)
        project.tests("def test_it(web): pass")
        project.run().assert_outcomes(passed=1)
        assert project.calls == ["web", "undo web"]

    def test_plan_eager_makes_all_initial_steps_eager(self, project: Project) -> None:
        """`plan_eager = true` makes the steps of all initial conftests eager."""
        project.write("pytest.ini", "[pytest]\nplan_eager = true\n")
        project.steps("@pytest.mark.plan_step\ndef net(): note('net')")
        project.steps("@pytest.mark.plan_step\ndef late(): note('late')", name="unit/conftest.py")
        project.tests("note('import')\ndef test_unit(late): pass", name="unit/test_unit.py")
        project.run(".").assert_outcomes(passed=1)
        assert project.calls == ["net", "import", "late"]

    def test_late_eager_step_runs_before_tests(self, project: Project) -> None:
        """An eager step in a conftest that collection finds runs before the tests."""
        project.steps(self.STEP, name="unit/conftest.py")
        project.tests("def test_unit(web): note('test')", name="unit/test_unit.py")
        project.run(".").assert_outcomes(passed=1)
        assert project.calls == ["web", "test", "undo web"]

    def test_eager_step_runs_before_other_sessionstarts(self, project: Project) -> None:
        """Eager steps run before the pytest_sessionstart of other plugins."""
        project.steps(self.STEP, "def pytest_sessionstart(): note(os.environ.get('WEB'))")
        project.tests("def test_it(): pass")
        project.run().assert_outcomes(passed=1)
        assert project.calls == ["web", "http://here", "undo web"]

    def test_failing_eager_step_blocks_its_tests(self, project: Project) -> None:
        """A failed eager step is reported once, collection continues, and its tests are blocked."""
        project.steps("@pytest.mark.plan_step(eager=True)\ndef web(): raise RuntimeError('no')")
        project.tests("def test_it(web): pass\ndef test_free(): note('free')")
        result = project.run()
        assert result.ret == 1
        result.stdout.fnmatch_lines(
            ["*ERROR at setup of plan step 'web'*", "*= 1 passed, 1 error, 1 blocked in *"]
        )
        assert project.calls == ["free"]

    def test_failing_sessionstart_undoes_eager_steps(self, project: Project) -> None:
        """Eager steps are undone even if pytest_sessionstart fails and sessionfinish never runs."""
        project.steps(self.STEP, "def pytest_sessionstart(): raise RuntimeError('not mine')")
        project.tests("def test_it(web): pass")
        project.run_apart()
        assert project.calls == ["web", "undo web"]

    def test_collection_error_undoes_eager_steps(self, project: Project) -> None:
        """Eager steps are undone after a module could not be imported."""
        project.steps(self.STEP)
        project.tests("import no_such_module")
        assert project.run().ret == pytest.ExitCode.INTERRUPTED
        assert project.calls == ["web", "undo web"]

    def test_cycle_is_refused_before_eager_steps_run(self, project: Project) -> None:
        """A plan with a cycle is refused before its eager steps run."""
        project.steps(self.STEP, "@pytest.mark.plan_step(needs=['b'])\ndef b(): pass")
        project.tests("def test_it(web): pass")
        refuses(project.run(), "dependency cycle")
        assert project.calls == []

    def test_limit_counts_from_eager_steps(self, project: Project) -> None:
        """The limit counts from the start of the eager steps, before collection."""
        project.steps("@pytest.mark.plan_step(eager=True)\ndef web(ctx): ctx.sleep(60)")
        project.tests("def test_it(web): note('test')")
        result = project.run("--plan-limit=100ms")
        assert result.ret == 1
        assert project.calls == []


class TestSetenv:
    """Environment variables set with ctx.setenv."""

    def test_variable_is_there_for_tests_and_restored(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The variable is set for tests and later steps, and restored afterward."""
        monkeypatch.setenv("OLD", "before")
        project.steps("""
        @pytest.mark.plan_step
        def web(ctx):
            ctx.setenv("NEW", "1")
            ctx.setenv("OLD", "during")
            ctx.setenv("OLD", "later")

        @pytest.mark.plan_step
        def child(web, ctx):
            import sys
            code = "import os; print(os.environ['NEW'], os.environ['OLD'])"
            return ctx.run([sys.executable, "-c", code]).stdout.strip()
        """)
        project.tests("""
        def test_it(child):
            assert child == "1 later"
            assert (os.environ["NEW"], os.environ["OLD"]) == ("1", "later")
        """)
        project.run().assert_outcomes(passed=1)
        assert os.environ["OLD"] == "before"
        assert "NEW" not in os.environ

    def test_variable_is_gone_after_a_failure(self, project: Project) -> None:
        """The variable is restored if the step that set it fails."""
        project.steps("""
        @pytest.mark.plan_step
        def web(ctx):
            ctx.setenv("NEW", "1")
            raise RuntimeError("no")
        """)
        project.tests("def test_it(web): pass")
        assert project.run().ret == 1
        assert "NEW" not in os.environ

    def test_two_steps_may_not_set_the_same_variable(self, project: Project) -> None:
        """If a second step sets the same variable, it fails and the error names both steps."""
        project.steps("""
        @pytest.mark.plan_step
        def one(ctx): ctx.setenv("NEW", "1")

        @pytest.mark.plan_step
        def two(ctx): ctx.setenv("NEW", "2")
        """)
        project.tests("def test_it(plan): pass")
        project.run().stdout.fnmatch_lines(
            ["E *steps 'one' and 'two' both set the environment variable 'NEW'"]
        )


def test_editors_find_tests_without_running_steps(project: Project) -> None:
    """With what VS Code passes, no step runs, and a command to type has nothing of the editor."""
    project.steps("@pytest.mark.plan_step(eager=True)\ndef db(): note('run'); 1 / 0")
    project.tests("def test_it(db): pass")
    project.write("vscode_pytest.py", "")
    given = ("-p", "vscode_pytest", f"--rootdir={project.path}")
    for args in ([*given, "--collect-only"], ["--collect-only", "-q", "--no-header"]):
        result = project.run(*args)
        assert result.ret == 0
        result.stdout.fnmatch_lines(["*test_it*"])
    assert project.calls == []
    result = project.run(*given, f"{project.path}/test_it.py::test_it")
    result.stdout.fnmatch_lines(["To rerun * pytest -p pytest_plan --rootdir=* --plan-until db"])
