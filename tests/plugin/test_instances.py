"""Steps with parameters, and steps per worker in a run without workers."""

from __future__ import annotations

import json

import pytest

from pytest_plan.plugin.compat import fixture_internals
from tests.plugin.project import Project, refuses

MATRIX = """
    @pytest.mark.plan_step(params=["15", pytest.param("16", marks=pytest.mark.skip("no 16")), 18])
    def postgres(ctx):
        note("made", ctx.step)
        ctx.setenv("PG", str(ctx.param))
        return f"pg{ctx.param}"

    @pytest.mark.plan_step
    def schema(postgres):
        return f"schema on {postgres}"

    @pytest.mark.plan_step(per="worker")
    def database(schema, ctx):
        ctx.setenv("URL", f"{schema} of {ctx.worker}")
        return f"{schema} of {ctx.worker}"
"""
MATRIX_TESTS = """
    @pytest.fixture(scope="module")
    def client(schema):
        note("client of", schema)
        yield schema
        note("end of client of", schema)

    def test_value(schema, plan, client):
        assert schema == client == f"schema on pg{os.environ['PG']}" == plan.state["schema"]
        assert plan.results["schema"].name == f"schema[{os.environ['PG']}]"

    @pytest.mark.plan("schema")
    def test_mark(plan):
        assert os.environ["PG"]
        plan.need("postgres")

    @pytest.mark.usefixtures("database")
    def test_used():
        assert os.environ["URL"] == f"schema on pg{os.environ['PG']} of master"

    @pytest.mark.parametrize("postgres", ["15"], indirect=True)
    def test_indirect(database, postgres):
        assert (database, postgres) == ("schema on pg15 of master", "pg15")

    @pytest.mark.parametrize("postgres", ["own"])
    def test_direct(postgres):
        assert postgres == "own"
        assert "PG" not in os.environ

    def test_all(plan):
        with pytest.raises(KeyError, match=r"several instances.*: postgres\\[15\\], postgres\\[16"):
            plan.state["postgres"]
        with pytest.raises(KeyError, match="several instances"):
            plan.program("postgres")
"""


def test_tests_are_parametrized_as_by_fixtures(project: Project) -> None:
    """By fixtures of steps and of the project, marks, `usefixtures`; grouped; marks skip."""
    project.steps(MATRIX)
    project.tests(MATRIX_TESTS)
    result = project.run("-v", "--plan-report", "plan.json", "--junitxml", "junit.xml")
    result.assert_outcomes(passed=9, skipped=3)
    result.stdout.fnmatch_lines_random(
        [
            "*::test_value[[]15[]] PASSED*",
            "*::test_mark[[]18[]] PASSED*",
            "*::test_used[[]16[]] SKIPPED*",
            "*::test_indirect[[]15[]] PASSED*",
        ]
    )
    assert [line for line in project.calls if "client" in line] == [
        "client of schema on pg15",
        "end of client of schema on pg15",
        "client of schema on pg18",
        "end of client of schema on pg18",
    ]
    assert sorted(line for line in project.calls if "made" in line) == [
        "made postgres[15]",
        "made postgres[18]",
    ]
    # Without workers, only the names of parameters are shown.
    report = json.loads((project.path / "plan.json").read_text())
    names = [step["name"] for step in report["steps"]]
    assert {"database[15]", "schema[18]"} < set(names)
    said = result.stdout.str() + (project.path / "junit.xml").read_text() + json.dumps(report)
    assert "@master" not in said


def test_only_the_instances_that_are_left_are_provisioned(project: Project) -> None:
    """After `-k`, `--deselect` and the other ways to select tests."""
    project.steps(MATRIX)
    project.tests(MATRIX_TESTS)
    project.run("-k", "18 and value").assert_outcomes(passed=1)
    assert [line for line in project.calls if "made" in line] == ["made postgres[18]"]


def test_show_lists_instances_and_the_tests_that_need_them(project: Project) -> None:
    """`--plan-show`: the names are those of the parameters, and nothing runs."""
    project.steps(MATRIX)
    project.tests(MATRIX_TESTS)
    result = project.run("--plan-show", "-k", "test_value or test_mark")
    result.stdout.fnmatch_lines(
        [
            "postgres[[]15[]] *",
            "*schema[[]15[]] * needs postgres[[]15[]]*",
            "*database[[]15[]] *",
            "postgres[[]16[]] *(not needed)",
            "1 test needs postgres[[]15[]], schema[[]15[]], database[[]15[]]:",
            "  test_it.py::test_value[[]15[]]",
        ]
    )
    assert project.calls == []


@pytest.mark.parametrize("mode", [[], ["--plan-continue-on-error"]], ids=["default", "continue"])
def test_a_parameter_that_fails_blocks_its_tests(project: Project, mode: list[str]) -> None:
    """The other parameters go on in both modes, and so do steps that come later."""
    project.steps(
        """
        @pytest.mark.plan_step(params=["15", "16"])
        def postgres(ctx):
            if ctx.param == "15":
                raise RuntimeError("no binaries")

        @pytest.mark.plan_step
        def schema(postgres): ...

        @pytest.mark.plan_step
        def last(): ...
        """
    )
    project.tests("def test_it(schema, last): ...", "def test_last(last): ...")
    result = project.run(*mode, "-rE")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "BLOCKED *::test_it[[]15[]] - plan step 'postgres[[]15[]]' failed: *no binaries",
            "ERROR conftest.py::postgres[[]15[]] - RuntimeError: no binaries",
        ]
    )


def test_products_have_the_ids_of_both(project: Project) -> None:
    """A test gets the values of its own product; ids are those that pytest makes."""
    project.steps(
        """
        class Thing:
            pass

        @pytest.mark.plan_step(params=[Thing(), Thing()], ids=lambda one: None)
        def store(ctx):
            return ctx.param

        @pytest.mark.plan_step(params=(one for one in ("ä", "a/b")), needs=())
        def server(ctx):
            return ctx.param

        @pytest.mark.plan_step(needs=("store",), autouse=True)
        def app(server):
            return server
        """
    )
    project.tests("def test_it(app, server): assert app == server")
    result = project.run("-v")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines_random(
        [
            r"*::test_it[[]*store0*[]] PASSED*",
            "plan: app[[]store1,a/b[]] *",
            "plan: store[[]store0[]] *",
        ]
    )


def test_a_step_per_worker_has_one_instance_without_workers(project: Project) -> None:
    """Its worker is `master`; its variables are set in this process; its plain name is shown."""
    project.steps(
        """
        @pytest.mark.plan_step(per="worker")
        def database(ctx):
            ctx.setenv("URL", ctx.worker)
            if os.environ.get("FAILS"):
                raise RuntimeError(f"{ctx.step} is full")
            return ctx.worker
        """
    )
    project.tests(
        """
        def test_it(database, plan):
            assert database == os.environ["URL"] == plan.state["database"] == "master"
            assert plan.state["database@master"] == "master"
            assert list(plan.state) == ["database"]
            assert plan.results["database"].name == "database@master"
        """
    )
    project.run().assert_outcomes(passed=1)
    result = project.run_apart("--plan-report", "plan.json", "-rE")
    assert "@" not in result.stdout.str().partition("collected")[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAILS", "1")
        result = project.run_apart("-rE")
    said = result.stdout.str()
    assert "BLOCKED test_it.py::test_it - plan step 'database' failed: RuntimeError" in said
    assert "ERROR conftest.py::database - RuntimeError: database is full" in said


def test_options_name_all_instances_or_one(project: Project) -> None:
    """`--plan-skip`, `--plan-until`; an unknown one is a usage error."""
    project.steps(MATRIX)
    project.tests("def test_it(database): ...")
    args = ("-v", "--plan-skip", "postgres[15]")
    result = project.run(*args)
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(
        ["*::test_it[[]15[]] SKIPPED (plan step 'postgres[[]15[]]': --plan-skip postgres[[]15[]])*"]
    )
    project.run("--plan-skip", "postgres").assert_outcomes(skipped=3)
    project.run("--plan-until", "schema[18]").assert_outcomes(skipped=3)
    assert project.calls == ["made postgres[18]", "made postgres[18]"]
    refuses(project.run("--plan-until", "schema[17]"), "unknown step 'schema[17]'", "schema[18]")


def test_kept_instances_are_reused_one_by_one(project: Project) -> None:
    """One more parameter leaves the others reused; one that is gone is cleaned up, by its value."""
    steps = """
        def drop(ctx, value):
            note("dropped", ctx.param, value)

        @pytest.mark.plan_step(params={params}, cleanup=drop)
        def postgres(ctx):
            note("made", ctx.step)
            return "on port 5432"
    """
    project.tests("def test_it(postgres): ...")
    project.steps(steps.format(params=["15", "16"]))
    project.run_apart("--plan-keep", "always").assert_outcomes(passed=2)
    project.steps(steps.format(params=["16", "18"]))
    result = project.run_apart("--plan-reuse")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "plan: postgres[[]15[]] is cleaned up: its parameter is no longer declared",
            "plan: postgres[[]16[]]  reused *",
        ]
    )
    assert project.calls[2:] == ["dropped 15 on port 5432", "made postgres[18]"]
    project.run("--plan-forget", "postgres[18]")
    assert project.run("--plan-cleanup").ret == 0
    assert project.calls[4:] == ["dropped 16 on port 5432"]


@pytest.mark.parametrize(
    ("step", "texts"),
    [
        ("(per='test')", ["conftest.py:5", "must be 'run' or 'worker', not 'test'"]),
        ("(params=[])", ["conftest.py:5", "list at least one value"]),
        ("(params=[1, 2], ids=['a', 'a'])", ["two parameters have the id 'a'", "conftest.py:5"]),
        ("(params=[1], ids=[object()])", ["conftest.py:5", "ids contains unsupported value"]),
        ("(params=[pytest.param(1, 2)])", ["each of its parameters must be one value, not (1, 2)"]),
        ("(per='worker', eager=True)", ["cannot be eager", "remove eager=True or per='worker'"]),
    ],
)
def test_what_cannot_be_is_a_usage_error(project: Project, step: str, texts: list[str]) -> None:
    """The message names the step, its place and the cure."""
    project.steps(f"@pytest.mark.plan_step{step}\ndef postgres(): ...")
    project.tests("def test_it(postgres): ...")
    refuses(project.run(), "step 'postgres'", *texts)


def test_what_a_test_cannot_need_is_a_usage_error(project: Project) -> None:
    """A step for all that needs one per worker, and a parameter that is none."""
    project.steps(
        """
        @pytest.mark.plan_step(per="worker")
        def database(): ...

        @pytest.mark.plan_step
        def report(database): ...
        """
    )
    project.tests("def test_it(report): ...")
    refuses(
        project.run(),
        "step 'report' (conftest.py:9) is provisioned once per run, but needs 'database' "
        "(conftest.py:6), which is provisioned once per worker; give 'report' the option "
        "per='worker'",
    )
    project.steps("@pytest.mark.plan_step(params=['15'])\ndef postgres(): ...")
    project.tests(
        """
        @pytest.mark.parametrize("postgres", ["17"], indirect=True)
        def test_it(postgres): ...
        """
    )
    refuses(project.run(), "test_it[17]", "none of the parameters of step 'postgres'", "'15'")


def test_steps_that_are_added_in_code_have_instances(project: Project) -> None:
    """`plan.add_step` takes the same options; attributes of a class do as well."""
    project.steps(
        """
        class Server(Step):
            params = [pytest.param(1, id="one"), 2]

            def exec(self, ctx):
                return ctx.param

        def pytest_plan_configure(plan):
            plan.add_step(Server(), name="server")
            plan.add_step(GenericStep(exec=lambda server: server), name="app", per="worker")
        """
    )
    project.tests("def test_it(app, server): assert app == server")
    result = project.run("-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*::test_it[[]one[]] PASSED*", "*::test_it[[]2[]] PASSED*"])


def test_ids_of_a_pytest_that_makes_them_in_another_way(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of a plan without pytest."""
    monkeypatch.delattr("_pytest.python.IdMaker")
    found = fixture_internals.parameters(pytestconfig, "a", [1, pytest.param("x")], None)
    assert [one.id for one in found] == ["1", "x"]
