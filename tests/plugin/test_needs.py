"""Which steps a test needs, by fixture, mark or autouse, and which steps are left out."""

from __future__ import annotations

import pytest

from tests.plugin.project import Project

THREE = """
@pytest.mark.plan_step(needs=())
def web(): note("web"); return "w"

@pytest.mark.plan_step(needs=())
def db(): note("db"); return "d"

@pytest.mark.plan_step
def seed(db): note("seed"); return "s"
"""


@pytest.fixture
def three(project: Project) -> Project:
    """A project with independent steps web and db, and seed, which needs db; one runs at a time."""
    project.steps(THREE)
    project.write("pytest.ini", "[pytest]\nplan_jobs = 1\n")
    return project


class TestFixtures:
    """Needing a step through its fixture."""

    def test_only_needed_steps_run(self, three: Project) -> None:
        """Only the steps of the selected tests run, and the steps that those need."""
        three.tests("def test_it(seed): assert seed == 's'")
        three.run().assert_outcomes(passed=1)
        assert three.calls == ["db", "seed"]

    @pytest.mark.parametrize(
        "source",
        [
            "@pytest.fixture\ndef client(web): return web\ndef test_it(client): pass",
            "@pytest.fixture(autouse=True)\ndef client(web): return web\ndef test_it(): pass",
            "@pytest.mark.usefixtures('web')\ndef test_it(): pass",
            "@pytest.mark.usefixtures('web')\nclass TestIt:\n    def test_it(self): pass",
            "pytestmark = pytest.mark.usefixtures('web')\ndef test_it(): pass",
            "@pytest.fixture(params=[1, 2])\ndef client(request, web): pass\n"
            "def test_it(client): pass",
            "class TestIt:\n    @pytest.fixture\n    def client(self, web): return web\n"
            "    def test_it(self, client): pass",
            "@pytest.mark.parametrize('client', [1], indirect=True)\n"
            "def test_it(client): pass\n@pytest.fixture\ndef client(web, request): pass",
        ],
        ids=["fixture", "autouse fixture", "usefixtures", "usefixtures of class",
             "usefixtures of module", "parametrised fixture", "fixture of class", "indirect"],
    )  # fmt: skip
    def test_need_goes_through_fixtures(self, three: Project, source: str) -> None:
        """A test needs a step however it reaches the step's fixture."""
        three.tests(source)
        assert three.run().ret == 0
        assert three.calls == ["web"]

    def test_override_that_requests_the_step_keeps_the_need(self, three: Project) -> None:
        """A fixture that overrides the step's fixture but requests it still needs the step."""
        three.tests("""
        @pytest.fixture
        def web(web): return web * 2
        def test_it(web): assert web == "ww"
        """)
        three.run().assert_outcomes(passed=1)
        assert three.calls == ["web"]

    def test_override_that_does_not_request_the_step_ends_the_need(self, three: Project) -> None:
        """A fixture that replaces the step's without requesting it does not need the step."""
        three.tests("""
        @pytest.fixture
        def web(): return "fake"
        def test_it(web): assert web == "fake"
        """)
        three.run().assert_outcomes(passed=1)
        assert three.calls == []

    def test_override_in_a_folder_ends_the_need_there(self, three: Project) -> None:
        """An override affects only the tests that see it; a deeper one may need the step."""
        three.steps("@pytest.fixture\ndef seed(): return 'fake'", name="unit/conftest.py")
        three.steps(
            "@pytest.fixture\ndef seed(seed, web): return seed", name="unit/deep/conftest.py"
        )
        three.tests("def test_unit(seed): assert seed == 'fake'", name="unit/test_unit.py")
        three.tests("def test_deep(seed): assert seed == 'fake'", name="unit/deep/test_deep.py")
        three.run("unit/test_unit.py").assert_outcomes(passed=1)
        assert three.calls == []
        three.run("unit/deep").assert_outcomes(passed=1)
        assert three.calls == ["web"]

    def test_direct_parametrisation_ends_the_need(self, three: Project) -> None:
        """Direct parametrization with the step's name replaces its fixture, as in pytest."""
        three.tests("@pytest.mark.parametrize('web', ['fake'])\ndef test_it(web): pass")
        three.run().assert_outcomes(passed=1)
        assert three.calls == []

    def test_value_is_the_same_object_for_all_tests(self, three: Project) -> None:
        """All tests and session fixtures get the same object."""
        three.steps("@pytest.mark.plan_step\ndef box(): return object()")
        three.tests("""
        @pytest.fixture(scope="session")
        def kept(box): return box
        @pytest.mark.parametrize("number", range(2))
        def test_it(kept, box, plan, number): assert kept is box is plan.state["box"]
        """)
        three.run().assert_outcomes(passed=2)

    def test_step_without_value_gives_none(self, project: Project) -> None:
        """The fixture of a step without a value returns None, and the State has no entry."""
        project.steps("@pytest.mark.plan_step\ndef db(): pass")
        project.tests("def test_it(db, plan): assert db is None and 'db' not in plan.state")
        project.run().assert_outcomes(passed=1)

    def test_secret_is_revealed_by_its_fixture(self, project: Project) -> None:
        """The fixture returns the revealed value, and the State has the Secret."""
        project.steps("@pytest.mark.plan_step\ndef token(): return Secret('open-sesame')")
        project.tests("""
        def test_it(token, plan):
            assert token == "open-sesame"
            assert plan.state["token"].reveal() == token
            assert token not in repr(plan.state["token"])
        """)
        project.run().assert_outcomes(passed=1)

    def test_fixtures_are_listed_with_place_and_docstring(self, project: Project) -> None:
        """`--fixtures` shows the place and the docstring of the step, and nothing runs."""
        project.steps(
            '@pytest.mark.plan_step\ndef db():\n    """A database for all."""\n    note(1)'
        )
        project.tests("def test_it(db): pass")
        result = project.run("--fixtures")
        result.stdout.fnmatch_lines(
            # before pytest 9 a decorated function begins at its `def` line
            ["*fixtures defined from conftest*", "db [[]session scope[]] -- conftest.py:[56]"]
        )
        result.stdout.fnmatch_lines(["    A database for all."])
        project.run("--fixtures-per-test").stdout.fnmatch_lines(
            ["db*conftest.py:[56]", "*A database*"]
        )
        assert project.calls == []

    def test_plan_fixture_is_listed(self, project: Project) -> None:
        """`--fixtures` explains `plan`."""
        project.run("--fixtures").stdout.fnmatch_lines(
            ["plan [[]session scope[]] -- *", "    The plan: *"]
        )

    def test_unittest_and_doctest_items(self, three: Project) -> None:
        """A TestCase needs steps through its marks and autouse fixtures; a doctest needs none."""
        three.tests("""
        import unittest

        def double(number):
            '''
            >>> double(2)
            4
            '''
            return 2 * number

        @pytest.mark.usefixtures("web")
        class TestIt(unittest.TestCase):
            def test_it(self): note("unittest")

        class TestMarked(unittest.TestCase):
            @pytest.mark.plan("db")
            def test_it(self): note("marked")
        """)
        three.run("--doctest-modules").assert_outcomes(passed=3)
        assert three.calls == ["web", "db", "unittest", "marked"]

    def test_doctest_reaches_a_step_by_getfixture(self, three: Project) -> None:
        """A doctest's getfixture never provisions a step, and its error says so."""
        three.write("test_doc.txt", ">>> getfixture('web')\n'w'\n")
        result = three.run()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*step 'web' was not provisioned*"])
        assert three.calls == []


class TestMark:
    """The mark `plan` and the fixture `plan`."""

    @pytest.mark.parametrize(
        ("source", "calls"),
        [
            ("@pytest.mark.plan('web')\ndef test_it(): pass", ["web"]),
            ("@pytest.mark.plan('web', 'seed')\ndef test_it(): pass", ["web", "db", "seed"]),
            ("@pytest.mark.plan('web')\n@pytest.mark.plan('db')\ndef test_it(): pass",
             ["web", "db"]),
            ("@pytest.mark.plan\ndef test_it(): pass", ["web", "db", "seed"]),
            ("@pytest.mark.plan()\ndef test_it(): pass", ["web", "db", "seed"]),
            ("def test_it(plan): pass", ["web", "db", "seed"]),
            ("@pytest.mark.plan('web')\ndef test_it(plan): pass", ["web"]),
            ("@pytest.mark.plan('web')\n@pytest.mark.plan\ndef test_it(): pass", ["web"]),
            ("@pytest.mark.plan('web')\ndef test_it(db): pass", ["web", "db"]),
            ("@pytest.mark.plan('web')\nclass TestIt:\n    def test_it(self): pass", ["web"]),
            ("pytestmark = pytest.mark.plan('web')\ndef test_it(): pass", ["web"]),
            ("@pytest.fixture\ndef mine(plan): return plan\ndef test_it(mine): pass",
             ["web", "db", "seed"]),
        ],
    )  # fmt: skip
    def test_mark_decides(self, three: Project, source: str, calls: list[str]) -> None:
        """A mark or `plan` needs the named steps, or else all visible steps."""
        three.tests(source)
        three.run().assert_outcomes(passed=1)
        assert three.calls == calls

    def test_marks_added_at_collection_count(self, three: Project) -> None:
        """A mark that a hook adds during collection counts."""
        three.steps(
            THREE,
            """
            def pytest_collection_modifyitems(items):
                for item in items:
                    item.add_marker(pytest.mark.plan("web"))
            """,
        )
        three.tests("def test_it(): pass")
        three.run().assert_outcomes(passed=1)
        assert three.calls == ["web"]

    def test_bare_mark_needs_only_visible_steps(self, three: Project) -> None:
        """`plan` and the bare mark need the steps of the own folder, not of sibling folders."""
        for name in ("a", "b"):
            three.steps(
                f"@pytest.mark.plan_step(needs=())\ndef of_{name}(): note('{name}')",
                name=f"{name}/conftest.py",
            )
            three.tests("def test_it(plan): pass", name=f"{name}/test_{name}.py")
        three.tests("def test_root(plan): pass")
        three.run("a", "test_it.py").assert_outcomes(passed=2)
        assert three.calls == ["web", "db", "seed", "a"]

    def test_mark_may_name_a_step_of_another_folder(self, three: Project) -> None:
        """A mark may name any step, even one of another folder."""
        three.steps(
            "@pytest.mark.plan_step(needs=())\ndef deep(): note('deep')", name="a/conftest.py"
        )
        three.tests("def test_a(): pass", name="a/test_a.py")
        three.tests("@pytest.mark.plan('deep')\ndef test_it(): pass")
        three.run(".").assert_outcomes(passed=2)
        assert three.calls == ["deep"]


class TestAutouse:
    """Autouse steps and `plan_autouse`."""

    def test_autouse_step_is_needed_below_its_place(self, project: Project) -> None:
        """An autouse step is needed by all tests at or below its conftest, and by no others."""
        project.steps(
            "@pytest.mark.plan_step(autouse=True)\ndef deep(): note('deep')", name="a/conftest.py"
        )
        project.tests("def test_a(): note('test a')", name="a/sub/test_a.py")
        project.tests("def test_it(): note('test')")
        project.run("test_it.py").assert_outcomes(passed=1)
        assert project.calls == ["test"]
        project.run(".").assert_outcomes(passed=2)
        assert project.calls == ["test", "deep", "test a", "test"]

    def test_failed_autouse_step_blocks_what_it_is_for(self, project: Project) -> None:
        """A failed autouse step blocks the tests of its folder, but no test outside."""
        project.steps(
            "@pytest.mark.plan_step(autouse=True)\ndef deep(): raise RuntimeError('no')",
            name="a/conftest.py",
        )
        project.tests("def test_a(): pass", name="a/test_a.py")
        project.tests("def test_it(): pass")
        project.run(".").stdout.fnmatch_lines(["*= 1 passed, 1 error, 1 blocked in *"])

    def test_plan_autouse_makes_every_test_need_all(self, three: Project) -> None:
        """With `plan_autouse = true` every test needs all steps."""
        three.write("pytest.ini", "[pytest]\nplan_jobs = 1\nplan_autouse = true\n")
        three.tests("def test_it(): note('test')")
        three.run().assert_outcomes(passed=1)
        assert three.calls == ["web", "db", "seed", "test"]


class TestPruning:
    """Only the steps that the selected tests need run."""

    TESTS = """
    def test_web(web): pass
    @pytest.mark.filterwarnings("default")
    def test_db(db): pass
    def test_free(): pass
    @pytest.mark.skip(reason="not today")
    def test_skipped(seed): pass
    @pytest.mark.skipif(True, reason="not here")
    def test_skipped_if(seed): pass
    @pytest.mark.parametrize("seed", [pytest.param(1, marks=pytest.mark.skip(reason="no"))])
    def test_skipped_parameter(web, seed): pass
    """

    @pytest.mark.parametrize(
        ("args", "calls"),
        [
            (["-k", "web"], ["web"]),
            (["-m", "filterwarnings"], ["db"]),
            (["--deselect", "test_it.py::test_web"], ["db"]),
            (["test_it.py::test_db"], ["db"]),
            (["-k", "free"], []),
            (["-k", "skipped"], []),
            ([], ["web", "db"]),
        ],
    )
    def test_selection_decides(self, three: Project, args: list[str], calls: list[str]) -> None:
        """Deselected tests, and tests that a mark skips, need no step."""
        three.tests(self.TESTS)
        assert three.run(*args).ret == 0
        assert three.calls == calls

    def test_last_failed_decides(self, three: Project) -> None:
        """`--lf` provisions only for the tests that failed."""
        three.tests("def test_web(web): pass\ndef test_db(db): assert False")
        three.run()
        (three.path / "calls.txt").unlink()
        three.run("--lf").assert_outcomes(failed=1)
        assert three.calls == ["db"]

    def test_order_edges_are_followed(self, project: Project) -> None:
        """In a plain list, the steps before a needed step run too, but not those after it."""
        project.steps("""
        @pytest.mark.plan_step
        def a(): note("a")

        @pytest.mark.plan_step
        def b(): note("b")

        @pytest.mark.plan_step
        def c(): note("c")
        """)
        project.tests("def test_it(b): pass")
        project.run().assert_outcomes(passed=1)
        assert project.calls == ["a", "b"]


class TestNeverProvision:
    """getfixturevalue and plan.need, which come too late to provision."""

    @pytest.mark.parametrize(
        "line",
        [
            "request.getfixturevalue('web')",
            "request.getfixturevalue('plan').need('web')",
            "request.getfixturevalue('plan').need('db', 'web')",
        ],
    )
    def test_missing_step_fails_with_the_cure(self, three: Project, line: str) -> None:
        """If the step has not run, the test fails and the message names the missing mark."""
        three.tests(f"@pytest.mark.plan('db')\ndef test_it(request): {line}")
        result = three.run()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            ["*step 'web' was not provisioned: mark the test with @pytest.mark.plan('web')*"]
        )
        assert three.calls == ["db"]

    def test_what_another_test_needed_is_returned(self, three: Project) -> None:
        """They return the value of a step that another test needed."""
        three.tests("""
        def test_first(web): pass
        @pytest.mark.plan("web")
        def test_second(request, plan):
            assert request.getfixturevalue("web") == "w"
            plan.need("web")
            plan.need()
        """)
        three.run().assert_outcomes(passed=2)

    def test_unknown_step_fails_with_the_nearest(self, three: Project) -> None:
        """plan.need of an unknown name fails and suggests the nearest name."""
        three.tests("@pytest.mark.plan('web')\ndef test_it(plan): plan.need('wep')")
        result = three.run()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*unknown step 'wep'; did you mean 'web'?*"])

    def test_failed_step_fails_with_its_reason(self, three: Project) -> None:
        """plan.need of a failed step fails with the step's error."""
        three.steps(THREE, "@pytest.mark.plan_step(needs=())\ndef bad(): raise OSError('gone')")
        three.tests("""
        def test_bad(bad): pass
        @pytest.mark.plan("web")
        def test_it(plan): plan.need("bad")
        """)
        result = three.run()
        result.stdout.fnmatch_lines(["FAILED test_it.py::test_it - *'bad' failed: OSError: gone*"])

    def test_skipped_step_skips(self, three: Project) -> None:
        """plan.need of a skipped step skips the test with its reason."""
        three.steps(THREE, "@pytest.mark.plan_step(needs=())\ndef absent(): pytest.skip('no gpu')")
        three.tests("""
        def test_absent(absent): pass
        @pytest.mark.plan("web")
        def test_it(plan): plan.need("absent")
        """)
        three.run().assert_outcomes(skipped=2)


class TestHandle:
    """Every attribute of the fixture `plan`."""

    def test_attributes(self, project: Project) -> None:
        """The fixture has state, results, remaining(), run_id, environment and a repr."""
        project.steps("""
        @pytest.mark.plan_step(retries=1, retry_wait=0)
        def db(ctx, state):
            state["shared"] = [1]
            if ctx.attempt == 1: raise RuntimeError("once")
            return 7
        """)
        project.tests("""
        import re
        from pytest_plan import PlanHandle, State, StepOutcome, StepResult

        def test_it(plan):
            assert isinstance(plan, PlanHandle)
            assert isinstance(plan.state, State)
            assert (plan.state["db"], plan.state["shared"]) == (7, [1])
            result = plan.results["db"]
            assert isinstance(result, StepResult)
            assert result.outcome is StepOutcome.SUCCEEDED
            assert [attempt.number for attempt in result.attempts] == [1, 2]
            assert plan.remaining() is None
            assert re.fullmatch("[0-9a-f]{8}", plan.run_id)
            assert plan.environment == f"run-{plan.run_id}"
            assert plan.environment in repr(plan)

        def test_state_is_shared(plan):
            plan.state["from a test"] = 1

        def test_state_is_still_there(plan):
            assert plan.state["from a test"] == 1
        """)
        project.run().assert_outcomes(passed=3)

    def test_remaining_counts_down(self, project: Project) -> None:
        """With a limit, remaining() decreases and is never negative."""
        project.steps("@pytest.mark.plan_step\ndef db(): pass")
        project.tests("""
        def test_it(plan):
            first, second = plan.remaining(), plan.remaining()
            assert 0 <= second <= first <= 60
        """)
        project.run("--plan-limit=60").assert_outcomes(passed=1)

    def test_handle_without_any_step(self, project: Project) -> None:
        """In a project without steps `plan` is an empty plan."""
        project.tests("""
        def test_it(plan):
            assert dict(plan.results) == {} and plan.remaining() is None
            plan.state["key"] = 1
            assert plan.state["key"] == 1
            plan.need()
            assert plan.run_id
        """)
        project.run().assert_outcomes(passed=1)

    def test_writes_are_refused_once_cleanup_has_begun(self, project: Project) -> None:
        """A fixture that ends after cleanup has begun cannot write to the State."""
        project.steps("""
        @pytest.mark.plan_step
        def db(): pass

        handles = []

        @pytest.fixture(scope="session")
        def handle(plan): handles.append(plan)

        def pytest_unconfigure():
            try:
                handles[0].state["late"] = 1
            except StateError:
                note("refused")
        """)
        project.tests("def test_it(handle): pass")
        project.run().assert_outcomes(passed=1)
        assert project.calls == ["refused"]
