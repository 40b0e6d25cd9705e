"""Mistakes are refused with a clear message before anything runs."""

from __future__ import annotations

import pytest

from tests.plugin.project import Project, refuses

USAGE = pytest.ExitCode.USAGE_ERROR
COLLECTION = pytest.ExitCode.INTERRUPTED

# Each case: the conftest's source and its message. The source begins on line 5 of the file.
CONFTESTS = {
    "unknown option": (
        "@pytest.mark.plan_step(retry=3)\ndef db(): pass",
        ["step 'db' (conftest.py:5)", "unknown option 'retry'", "did you mean", "timeout"],
    ),
    "option by position": (
        "@pytest.mark.plan_step('db', 3)\ndef db(): pass",
        ["conftest.py:5", "plan_step takes options by name only"],
    ),
    "marked twice": (
        "@pytest.mark.plan_step\n@pytest.mark.plan_step(retries=1)\ndef db(): pass",
        ["conftest.py:5", "'db' is marked plan_step twice"],
    ),
    "retries of a wrong type": (
        "@pytest.mark.plan_step(retries='3')\ndef db(): pass",
        ["retries of step 'db' (conftest.py:5)", "a whole number, 0 or more, not '3'"],
    ),
    "negative retries": (
        "@pytest.mark.plan_step(retries=-1)\ndef db(): pass",
        ["retries of step 'db' (conftest.py:5)", "a whole number, 0 or more, not -1"],
    ),
    "unreadable duration": (
        "@pytest.mark.plan_step(timeout='soon')\ndef db(): pass",
        ["timeout of step 'db' (conftest.py:5)", "'soon' is not a duration"],
    ),
    "negative duration": (
        "@pytest.mark.plan_step(timeout='-5s')\ndef db(): pass",
        ["timeout of step 'db' (conftest.py:5)", "'-5s' is negative"],
    ),
    "infinite duration": (
        "@pytest.mark.plan_step(pause=float('inf'))\ndef db(): pass",
        ["pause of step 'db' (conftest.py:5)", "inf is not a duration"],
    ),
    "flag that is none": (
        "@pytest.mark.plan_step(eager='yes')\ndef db(): pass",
        ["eager of step 'db' (conftest.py:5)", "True or False, not 'yes'"],
    ),
    "cleanup_when": (
        "@pytest.mark.plan_step(cleanup_when='always')\ndef db(): pass",
        ["cleanup_when of step 'db' (conftest.py:5)", "'succeeded' or 'attempted', not 'always'"],
    ),
    "retry_on of a wrong type": (
        "@pytest.mark.plan_step(retry_on='OSError')\ndef db(): pass",
        ["retry_on of step 'db' (conftest.py:5)", "exception class", "not 'OSError'"],
    ),
    "needs of a wrong type": (
        "@pytest.mark.plan_step(needs=[1])\ndef db(): pass",
        ["needs of step 'db' (conftest.py:5)", "a list of step names, not [1]"],
    ),
    "hook that is not callable": (
        "@pytest.mark.plan_step(cleanup='drop')\ndef db(): pass",
        ["cleanup", "must be callable, not 'drop'"],
    ),
    "duplicate name": (
        "@pytest.mark.plan_step\ndef db(): pass\n\n"
        "@pytest.mark.plan_step(name='db')\ndef two(): pass",
        ["two steps are called 'db'", "conftest.py:5", "conftest.py:8"],
    ),
    "name that is no identifier": (
        "@pytest.mark.plan_step(name='my-db')\ndef db(): pass",
        ["conftest.py:5", "invalid step name 'my-db'", "identifier"],
    ),
    "name that is a keyword": (
        "@pytest.mark.plan_step(name='class')\ndef db(): pass",
        ["conftest.py:5", "invalid step name 'class'"],
    ),
    "empty name": (
        "@pytest.mark.plan_step(name='')\ndef db(): pass",
        ["conftest.py:5", "invalid step name ''"],
    ),
    "name that hooks take": (
        "@pytest.mark.plan_step\ndef state(): pass",
        ["conftest.py:5", "'state' is a reserved name", "rename the step"],
    ),
    "class that is no step": (
        "@pytest.mark.plan_step\nclass Db: pass",
        ["conftest.py:5", "class 'Db' is not a Step", "pytest_plan.Step"],
    ),
    "class that needs arguments": (
        "@pytest.mark.plan_step\nclass Db(Step):\n    def __init__(self, port): pass",
        ["conftest.py:5", "cannot create 'Db' without arguments"],
    ),
    "positional-only parameter": (
        "@pytest.mark.plan_step\ndef db(ctx, /): pass",
        ["step 'db'", "'ctx'", "by name"],
    ),
    "generator as cleanup": (
        "def drop():\n    yield\n\n@pytest.mark.plan_step(cleanup=drop)\ndef db(): pass",
        ["cleanup of step 'db'", "generator"],
    ),
}  # fmt: skip

# The same, for mistakes that are only known once all conftests have been read.
PLANS = {
    "unknown need": (
        "@pytest.mark.plan_step\ndef web(): pass\n\n"
        "@pytest.mark.plan_step(needs=['wep'])\ndef db(): pass",
        ["step 'db' (conftest.py:8) needs an unknown step 'wep'", "did you mean 'web'"],
    ),
    "cycle": (
        "@pytest.mark.plan_step\ndef a(c): pass\n\n@pytest.mark.plan_step\ndef b(a): pass\n\n"
        "@pytest.mark.plan_step\ndef c(b): pass",
        ["dependency cycle", "needs 'a'", "needs 'b'", "needs 'c'", "conftest.py:5"],
    ),
    "cycle through an order edge": (
        "@pytest.mark.plan_step(needs=['b'])\ndef a(): pass\n\n"
        "@pytest.mark.plan_step\ndef b(): pass",
        ["dependency cycle", "needs 'b'", "is declared after 'a'"],
    ),
    "need of itself": (
        "@pytest.mark.plan_step(needs=['db'])\ndef db(): pass",
        ["dependency cycle", "'db'", "needs 'db'"],
    ),
    "unknown parameter": (
        "@pytest.mark.plan_step\ndef web(): pass\n\n@pytest.mark.plan_step\ndef db(wep): pass",
        ["step 'db' (conftest.py:8)", "'wep'", "did you mean 'web'", "config, ctx, state"],
    ),
    "value in exec": (
        "@pytest.mark.plan_step\ndef db(value): pass",
        ["step 'db' (conftest.py:5)", "exec has an unknown parameter 'value'"],
    ),
    "fixture of pytest": (
        "@pytest.mark.plan_step\ndef db(tmp_path): pass",
        ["step 'db'", "takes 'tmp_path', which is a pytest fixture", "ctx.tmp_path"],
    ),
    "fixture of the user": (
        "@pytest.fixture\ndef client(): pass\n\n@pytest.mark.plan_step\ndef db(client): pass",
        ["step 'db'", "takes 'client', which is a pytest fixture"],
    ),
    "request": (
        "@pytest.mark.plan_step\ndef db(request): pass",
        ["step 'db'", "takes 'request', which is a pytest fixture"],
    ),
    "name that hides a fixture of pytest": (
        "@pytest.mark.plan_step\ndef tmp_path(): pass",
        ["step 'tmp_path' (conftest.py:5) would hide the fixture 'tmp_path' of pytest"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFTESTS)
def test_conftest_is_refused(project: Project, case: str) -> None:
    """An invalid step is a usage error that names the step and its place."""
    conftest, says = CONFTESTS[case]
    project.steps(conftest)
    project.tests("def test_it(): note('test')")
    refuses(project.run(), *says)
    assert project.calls == []


@pytest.mark.parametrize("case", PLANS)
def test_plan_is_refused(project: Project, case: str) -> None:
    """A plan that cannot run is a usage error, even if no test needs it."""
    conftest, says = PLANS[case]
    project.steps(conftest, "@pytest.mark.plan_step\ndef other(): note('other')")
    project.tests("def test_it(other): note('test')")
    refuses(project.run(), *says)
    assert project.calls == []


def test_refusal_is_the_same_in_a_process_of_its_own(project: Project) -> None:
    """In a separate process the message goes to stderr, with exit status 4."""
    project.steps("@pytest.mark.plan_step(retries=-1)\ndef db(): pass")
    project.tests("def test_it(db): pass")
    result = project.run_apart()
    refuses(result)
    result.stderr.fnmatch_lines(["ERROR: retries of step 'db' (conftest.py:5) must be *"])


@pytest.mark.parametrize("option", ["--plan-show", "--setup-plan", "--collect-only"])
def test_plan_is_refused_where_nothing_would_run(project: Project, option: str) -> None:
    """Collecting or printing a plan that cannot run fails with the reason."""
    project.steps("@pytest.mark.plan_step(retries=-1)\ndef db(): pass")
    project.tests("def test_it(db): pass")
    refuses(project.run(option), "retries of step 'db' (conftest.py:5)")


@pytest.mark.parametrize("option", ["--plan-show", "--setup-plan"])
def test_cycle_is_refused_where_the_plan_is_printed(project: Project, option: str) -> None:
    """`--plan-show` reports a cycle as a path instead of printing the plan."""
    project.steps(PLANS["cycle"][0])
    project.tests("def test_it(a): pass")
    refuses(project.run(option), *PLANS["cycle"][1])


class TestInTestModule:
    """Steps in test modules, which would silently never run."""

    def test_function_is_a_collection_error(self, project: Project) -> None:
        """A marked function in a test module is a collection error that says where to move it."""
        project.tests("@pytest.mark.plan_step\ndef db(): note('db')\ndef test_it(): note('test')")
        result = project.run()
        refuses(
            result,
            "'db' is marked plan_step in a test module",
            "move it to conftest.py",
            status=COLLECTION,
        )
        assert project.calls == []

    def test_conftest_of_the_modules_folder_is_named(self, project: Project) -> None:
        """The error for a module in a folder names the conftest of that folder."""
        project.tests(
            "@pytest.mark.plan_step\ndef db(): pass\ndef test_it(): pass",
            name="unit/deep/test_it.py",
        )
        refuses(project.run(), "move it to unit/deep/conftest.py", status=COLLECTION)

    @pytest.mark.parametrize(
        "source",
        [
            "from pytest_plan import Step\n@pytest.mark.plan_step\nclass Db(Step): pass",
            "@pytest.mark.plan_step\ndef test_db(): pass",
            "class TestIt:\n    @pytest.mark.plan_step\n    def test_db(self): pass",
            "class TestIt:\n    @pytest.mark.plan_step\n    def db(self): pass\n"
            "    def test_it(self): pass",
        ],
        ids=["class", "test", "test method", "method"],
    )
    def test_every_form_is_refused(self, project: Project, source: str) -> None:
        """Marked step classes, tests and methods are refused like marked functions."""
        project.tests(source + "\n")
        refuses(project.run(), "is marked plan_step in a test module", status=COLLECTION)

    def test_imported_step_is_not_refused(self, project: Project) -> None:
        """A test module may import a step from a conftest or plugin in order to name it."""
        project.write("steps.py", "import pytest\n@pytest.mark.plan_step\ndef db(): return 1\n")
        project.steps("from steps import db")
        project.tests("from steps import db\ndef test_it(plan): assert plan.state['db'] == 1")
        project.run().assert_outcomes(passed=1)


class TestMark:
    """The mark `plan` on tests."""

    STEPS = "@pytest.mark.plan_step\ndef web(): note('web')\n"

    @pytest.mark.parametrize(
        ("mark", "says"),
        [
            ("'wep'", ["test_it.py::test_it", "unknown step 'wep'", "did you mean 'web'", "web"]),
            ("3", ["test_it.py::test_it", "3"]),
            ("['web']", ["test_it.py::test_it", "['web']"]),
            (
                "needs='web'",
                ["test_it.py::test_it", "takes step names as arguments", "'needs': 'web'"],
            ),
        ],
    )
    def test_mark_is_refused(self, project: Project, mark: str, says: list[str]) -> None:
        """A mark with an invalid argument is a usage error that names the test."""
        project.steps(self.STEPS)
        project.tests(f"@pytest.mark.plan({mark})\ndef test_it(): note('test')")
        refuses(project.run(), *says)
        assert project.calls == []

    @pytest.mark.parametrize("mark", ["Odd()", "tier=Odd()", "'web', Odd()"])
    @pytest.mark.parametrize("text", ["1 / 0", "'two\\nlines' * 99"])
    def test_object_without_a_short_repr_is_refused(
        self, project: Project, mark: str, text: str
    ) -> None:
        """An argument whose repr fails, or is long, is shown on one line as well."""
        project.steps(self.STEPS)
        project.tests(f"""
        class Odd:
            def __repr__(self): return {text}

        @pytest.mark.plan({mark})
        def test_it(): pass
        """)
        result = project.run()
        refuses(result, "test_it.py::test_it: @pytest.mark.plan takes step names as arguments, not")
        lines = [line for line in result.errlines if line]
        assert len(lines) == 1
        assert len(lines[0]) < 200


class TestOptions:
    """Options that name steps."""

    STEPS = TestMark.STEPS

    @pytest.mark.parametrize("option", ["--plan-until", "--plan-skip"])
    def test_unknown_step_is_refused(self, project: Project, option: str) -> None:
        """The message names the option, its value, the nearest name and all steps."""
        project.steps(self.STEPS)
        project.tests("def test_it(web): note('test')")
        refuses(project.run(option, "wep"), option, "unknown step 'wep'", "did you mean 'web'")
        assert project.calls == []

    @pytest.mark.parametrize("option", ["--plan-until", "--plan-skip"])
    def test_unknown_step_is_refused_without_any_step(self, project: Project, option: str) -> None:
        """In a project without steps, an option that names a step is refused as well."""
        project.tests("def test_it(): note('test')")
        refuses(project.run(option, "web"), option, "unknown step 'web'", "no steps are declared")
        assert project.calls == []

    def test_source_of_the_name_is_told(self, project: Project) -> None:
        """The message names the environment variable or the ini file that the name comes from."""
        project.steps(self.STEPS)
        project.tests("def test_it(web): pass")
        project.write("pytest.ini", "[pytest]\nplan_until = wep\n")
        refuses(project.run(), "plan_until in pytest.ini", "unknown step 'wep'")


class TestWhileRunning:
    """Mistakes that only become known when a step runs."""

    @pytest.mark.parametrize(
        ("source", "says"),
        [
            ("def db():\n    yield 1\n    yield 2", "step 'db' yielded twice"),
            ("def db():\n    return\n    yield", "step 'db' is a generator function but ended"),
            ("async def db():\n    yield 1\n    yield 2", "step 'db' yielded twice"),
            ("def db(state): state['web'] = 1", "StateError: *'web'*"),
            ("def db(state): state[3] = 1", "StateError: *3*"),
            ("def db(ctx): ctx.setenv('A', '1'); ctx.sleep('soon')", "'soon' is not a duration"),
        ],
    )
    def test_mistake_in_a_step_is_an_error(self, project: Project, source: str, says: str) -> None:
        """The step fails with a clear message, and the run is red."""
        project.steps(
            f"@pytest.mark.plan_step\ndef web(): pass\n\n@pytest.mark.plan_step\n{source}"
        )
        project.tests("def test_it(web, db): pass")
        result = project.run()
        assert result.ret == 1
        result.stdout.fnmatch_lines([f"*{says}*"])
        assert "INTERNALERROR" not in result.stdout.str()

    def test_test_may_not_write_the_key_of_a_step(self, project: Project) -> None:
        """A test that writes the key of a step fails."""
        project.steps(TestMark.STEPS)
        project.tests("def test_it(web, plan): plan.state['web'] = 2")
        result = project.run()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["E *StateError: *'web'*"])

    def test_plan_cannot_be_run_by_a_hook(self, project: Project) -> None:
        """A plan that pytest_plan_configure executes is refused, because it would run twice."""
        project.steps("""
        @pytest.mark.plan_step
        def db(): note("db")

        def pytest_plan_configure(config, plan):
            plan.execute()
        """)
        project.tests("def test_it(db): note('test')")
        result = project.run()
        assert result.ret == USAGE
        assert "INTERNALERROR" not in result.stdout.str()
        assert project.calls.count("db") <= 1


class TestLateConftest:
    """A conftest that is loaded while its folder is collected."""

    @pytest.mark.parametrize("case", ["unknown option", "duplicate name", "class that is no step"])
    def test_mistake_is_a_collection_error(self, project: Project, case: str) -> None:
        """A mistake in it is a collection error that names the step and its place."""
        conftest, _ = CONFTESTS[case]
        project.steps("@pytest.mark.plan_step\ndef root(): note('root')")
        project.steps(conftest, name="unit/conftest.py")
        project.tests("def test_it(root): note('test')")
        project.tests("def test_unit(): pass", name="unit/test_unit.py")
        refuses(project.run("."), "unit/conftest.py:5", status=COLLECTION)
        assert project.calls == []

    def test_duplicate_of_a_step_above_names_both_places(self, project: Project) -> None:
        """Names are unique in the whole plan; the message names both places of a duplicate."""
        project.steps("@pytest.mark.plan_step\ndef db(): pass")
        project.steps("@pytest.mark.plan_step\ndef db(): pass", name="unit/conftest.py")
        project.tests("def test_unit(): pass", name="unit/test_unit.py")
        result = project.run(".")
        refuses(result, "two steps are called 'db'", status=COLLECTION)
        result.stdout.fnmatch_lines(["*conftest.py:5 and unit/conftest.py:5*"])

    def test_configure_hook_comes_too_late(self, project: Project) -> None:
        """pytest_plan_configure in a late conftest is an error, as it would never be called."""
        project.steps("def pytest_plan_configure(config, plan): pass", name="unit/conftest.py")
        project.tests("def test_unit(): pass", name="unit/test_unit.py")
        refuses(
            project.run("."), "pytest_plan_configure is called before collection", status=COLLECTION
        )
