"""Steps of one name in sibling folders, as in a monorepo: each folder's tests see their own."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.plugin.project import Project, plan_lines, refuses

STEPS = """
import dataclasses

@dataclasses.dataclass
class Url:
    text: str


def drop(value):
    note("drop", value.text)


@pytest.mark.plan_step(cleanup=drop{options})
def db(ctx):
    note("db {folder}")
    ctx.defer(note, "undo {folder}")
    (ctx.tmp_path / "file").write_text("{folder}")
    (ctx.artifacts / "dump.sql").write_text("{folder}")
    return Url("{folder}")


@pytest.mark.plan_step
def orders(ctx, db, state):
    found = (db.text, state["db"].text, ctx.state.get("db").text, state.wait_for("db", 5).text)
    assert set(found) == {{"{folder}"}}
    assert state.snapshot()["db"] == db and "db" in state and "db" in list(state)
    state["{folder} is ready"] = True
    return "orders of {folder}"


@pytest.mark.plan_step(needs=["db"])
def named(state):
    return f"named {{state['db'].text}}"
"""
TESTS = """
def test_fixture(db, orders):
    assert (db.text, orders) == ("{folder}", "orders of {folder}")


@pytest.mark.plan("named")
def test_mark(plan):
    assert plan.state["named"] == "named {folder}"


@pytest.mark.usefixtures("db")
def test_plan(plan):
    state = plan.state
    found = (state["db"], state.get("db"), state.wait_for("db", 5), state.setdefault("db", None))
    assert {{url.text for url in found}} == {{"{folder}"}}
    assert "db" in state and state.snapshot()["db"].text == "{folder}" == dict(state)["db"].text
    assert state["services/{folder}/db"] == state["db"] and "services/{folder}/db" in state
    assert len(state) <= len(list(state)) <= len(state)  # another worker may add a key meanwhile
    assert plan.results["db"] == plan.results["services/{folder}/db"]
    assert "db" in plan.results and dict(plan.results)["db"] == plan.results["db"]
    plan.need("db", "services/{folder}/db")


def test_key_of_the_step(plan):
    for write in (plan.state.__setitem__, plan.state.swap):
        with pytest.raises(Exception, match="belongs to the step"):
            write("db", 1)
    with pytest.raises(Exception, match="belongs to the step"):
        del plan.state["db"]


def test_free_keys_are_shared(plan):
    plan.state["seen by {folder}"] = True
    assert plan.state["{folder} is ready"]


def test_fixture_of_the_root(database, kept_state):
    assert database.text == kept_state["db"].text == "{folder}"
"""
ROOT = """
@pytest.fixture
def database(plan):
    return plan.state["db"]


@pytest.fixture(scope="session")
def kept_state(plan):
    return plan.state
"""


def monorepo(project: Project, *folders: str, options: str = "") -> None:
    """Write services that all have the steps `db`, `orders` and `named`."""
    project.steps(ROOT)
    for folder in folders or ("a", "b"):
        where = f"services/{folder}"
        steps = STEPS.format(folder=folder, options=options)
        project.steps(steps, name=f"{where}/conftest.py")
        project.tests(TESTS.format(folder=folder), name=f"{where}/test_{folder}.py")


def step_names(project: Project, *args: str) -> list[str]:
    """Run with a JSON report and return the names of the steps in it."""
    project.run("--plan-report=plan.json", *args)
    report = json.loads((project.path / "plan.json").read_text())
    return sorted(step["name"] for step in report["steps"])


class TestOwnSteps:
    """What tests and steps of a folder see."""

    @pytest.mark.parametrize("mode", ["prepend", "importlib"])
    def test_each_folder_sees_its_own(self, project: Project, mode: str) -> None:
        """A name means the visible step: as fixture, parameter, need, mark, and in the State."""
        monorepo(project)
        project.run("--import-mode", mode).assert_outcomes(passed=12)
        assert sorted(project.calls) == sorted(
            ["db a", "db b", "drop a", "drop b", "undo a", "undo b"]
        )

    def test_packages(self, project: Project) -> None:
        """Conftests may also be modules of packages."""
        monorepo(project)
        for folder in ("services", "services/a", "services/b"):
            project.write(f"{folder}/__init__.py", "")
        project.run().assert_outcomes(passed=12)

    @pytest.mark.parametrize("folder", ["a", "b"])
    def test_one_folder_alone_has_plain_names(self, project: Project, folder: str) -> None:
        """A name that is unique in the run stays as it is, and the tests pass unchanged."""
        monorepo(project)
        project.run(f"services/{folder}").assert_outcomes(passed=6)
        assert step_names(project, f"services/{folder}") == ["db", "named", "orders"]

    def test_full_names_where_a_name_is_not_unique(self, project: Project) -> None:
        """Reports and artifacts use full names; a step with a unique name keeps it."""
        monorepo(project)
        project.steps(
            STEPS.format(folder="a", options=""),
            "@pytest.mark.plan_step(needs=())\ndef broker(): return 1",
            name="services/a/conftest.py",
        )
        project.tests("def test_broker(broker, db): pass", name="services/a/test_broker.py")
        both = [
            f"services/{folder}/{name}" for folder in "ab" for name in ("db", "named", "orders")
        ]
        assert step_names(project) == sorted(["broker", *both])
        files = (project.path / ".pytest_plan/artifacts").glob("*/services/*/db/dump.sql")
        assert sorted(file.read_text() for file in files) == ["a", "b"]

    def test_three_folders_and_one_below(self, project: Project) -> None:
        """Tests of a deeper folder see the step above them, whatever else has its name."""
        monorepo(project, "a", "b", "c")
        project.steps(
            "@pytest.mark.plan_step\ndef deep(db): return db.text",
            name="services/b/deep/conftest.py",
        )
        project.tests(
            "def test_deep(deep, db, plan): assert deep == db.text == plan.state['db'].text == 'b'",
            name="services/b/deep/test_deep.py",
        )
        project.run().assert_outcomes(passed=19)

    def test_siblings_have_no_order(self, project: Project) -> None:
        """Steps of siblings do not wait for each other, and one that fails blocks only its own."""
        monorepo(project)
        project.steps(
            "@pytest.mark.plan_step\ndef db(): raise RuntimeError('no disk')",
            name="services/a/conftest.py",
        )
        project.tests("def test_a(db): pass", name="services/a/test_a.py")
        result = project.run("--plan-continue-on-error")
        result.assert_outcomes(passed=6, errors=1)
        result.stdout.fnmatch_lines(["*plan step 'services/a/db' failed: RuntimeError: no disk*"])
        assert "1 blocked" in result.stdout.str()

    def test_two_conftests_may_import_one_step(self, project: Project) -> None:
        """Each has a step of its own, as with an imported fixture."""
        project.write(
            "shared.py",
            """
            import pytest
            from calls import note

            @pytest.mark.plan_step
            def db(ctx):
                note("db", ctx.step)
                return ctx.step
            """,
        )
        for folder in "ab":
            project.write(f"{folder}/conftest.py", "from shared import db")
            project.tests(
                f"def test_it(db): assert db == '{folder}/db'", name=f"{folder}/test_{folder}.py"
            )
        project.run().assert_outcomes(passed=2)
        assert sorted(project.calls) == ["db a/db", "db b/db"]

    def test_fixtures_are_listed_for_each_folder(self, project: Project) -> None:
        """`--fixtures` shows each step at its own place."""
        monorepo(project)
        text = project.run("--fixtures").stdout.str()
        assert "db [session scope] -- services/a/conftest.py:" in text
        assert "db [session scope] -- services/b/conftest.py:" in text

    def test_session_fixtures_that_outlive_the_tests_of_their_folder(
        self, project: Project
    ) -> None:
        """A fixture of a folder sees the folder's steps until the end, also after a failure."""
        monorepo(project)
        for folder in "ab":
            project.tests(
                f"""
                @pytest.fixture(scope="session")
                def outer(plan):
                    yield plan.state["db"].text
                    note("{folder} outer", plan.state["db"].text, plan.results["db"].name)

                @pytest.fixture(scope="session")
                def session(plan, outer):
                    yield plan.state["db"].text
                    note("{folder} session", plan.state["db"].text)
                    plan.need("db")
                    raise RuntimeError

                @pytest.fixture(scope="module")
                def broken(plan):
                    raise RuntimeError(plan.state["db"].text)

                def test_it(session, outer): assert session == outer == "{folder}"
                def test_broken(broken): pass
                def test_after(plan): assert plan.state["db"].text == "{folder}"
                """,
                name=f"services/{folder}/test_0{folder}.py",
            )
        result = project.run("services")
        result.assert_outcomes(passed=16, errors=3)
        assert [line for line in project.calls if "session" in line or "outer" in line] == [
            "b session b",
            "b outer b services/b/db",
            "a session a",
            "a outer a services/a/db",
        ]
        result.stdout.fnmatch_lines(["E*RuntimeError: a", "E*RuntimeError: b"])


class TestOutsideOfTheFolders:
    """Tests that see none of the steps, and names that could mean several."""

    def test_full_names_reach_every_step(self, project: Project) -> None:
        """A mark, `needs`, the State, the results and `plan.need` take full names."""
        monorepo(project)
        project.steps(
            """
            @pytest.mark.plan_step(needs=["services/a/db", "services/b/db"])
            def everything(state):
                return state["services/a/db"].text + state["services/b/db"].text
            """,
            name="zz/conftest.py",
        )
        project.tests(
            """
            @pytest.mark.plan("services/a/db", "services/b/db")
            def test_both(plan):
                names = [f"services/{folder}/db" for folder in "ab"]
                plan.need(*names)
                assert [plan.state[name].text for name in names] == ["a", "b"]
                assert {plan.results[name].outcome.value for name in names} == {"succeeded"}

            def test_everything(everything): assert everything == "ab"
            """,
            name="zz/test_zz.py",
        )
        project.run().assert_outcomes(passed=14)

    def test_a_full_name_may_be_used_where_the_name_is_unique(self, project: Project) -> None:
        """So a test or a command is right whatever else runs."""
        monorepo(project)
        project.tests(
            """
            @pytest.mark.plan("services/a/db")
            def test_a(plan):
                assert plan.state["services/a/db"].text == plan.state["db"].text == "a"
                assert plan.results["services/a/db"].name == "db"
                plan.need("services/a/db")
            """,
            name="zz/test_zz.py",
        )
        project.run("services/a", "zz").assert_outcomes(passed=7)
        result = project.run("services/a", "--plan-until=services/a/db", "--plan-report=plan.json")
        assert result.ret == 0
        assert "db" in (project.path / "plan.json").read_text()

    def test_an_ambiguous_name_lists_the_full_names(self, project: Project) -> None:
        """In a test that sees neither step, each use of the name is an error of that test."""
        monorepo(project)
        project.tests(
            """
            text = "several steps are called 'db'; use the full name of one: "
            full = text + "services/a/db, services/b/db"

            @pytest.mark.plan("services/a/db")
            def test_it(plan):
                for use in (plan.need, plan.state.get, plan.state.pop, plan.results.__getitem__,
                            lambda name: plan.state.update({name: 1})):
                    with pytest.raises((Exception, pytest.fail.Exception)) as caught:
                        use("db")
                    assert full in str(caught.value), use
            """,
            name="zz/test_zz.py",
        )
        project.run().assert_outcomes(passed=13)

    @pytest.mark.parametrize("option", ["--plan-until", "--plan-skip"])
    def test_ambiguous_on_the_command_line(self, project: Project, option: str) -> None:
        """It is a usage error that lists the full names, and nothing runs."""
        monorepo(project)
        text = f"{option}: several steps are called 'db'; use the full name of one: "
        refuses(project.run(option, "db"), text + "services/a/db, services/b/db")
        assert project.calls == []

    def test_options_take_full_names(self, project: Project) -> None:
        """Only the named step runs, or only the named step and what needs it are skipped."""
        monorepo(project)
        project.run("--plan-until=services/b/db").assert_outcomes(skipped=12)
        assert project.calls == ["db b", "drop b", "undo b"]
        project.run("--plan-skip=services/a/db").assert_outcomes(passed=6, skipped=6)

    def test_ambiguous_mark(self, project: Project) -> None:
        """A test that sees neither step cannot be marked with the name."""
        monorepo(project)
        project.tests("@pytest.mark.plan('db')\ndef test_it(): pass", name="zz/test_zz.py")
        text = "zz/test_zz.py::test_it: @pytest.mark.plan: several steps are called 'db'; "
        refuses(project.run(), text + "use the full name of one: services/a/db, services/b/db")

    def test_ambiguous_need(self, project: Project) -> None:
        """A step that sees neither cannot name them either, by `needs` or as a parameter."""
        monorepo(project)
        for source in ("(needs=['db'])\ndef web(): pass", "\ndef web(db): pass"):
            project.steps(f"@pytest.mark.plan_step{source}", name="zz/conftest.py")
            project.tests("def test_it(web): pass", name="zz/test_zz.py")
            text = "step 'web' (zz/conftest.py:5) needs 'db': several steps are called 'db'; "
            refuses(project.run(), text + "use the full name of one: services/a/db, services/b/db")

    def test_an_unknown_name_suggests_full_names(self, project: Project) -> None:
        """The own names are compared."""
        monorepo(project)
        text = "unknown step 'dbx'; did you mean 'services/a/db' or 'services/b/db'? (known steps:"
        refuses(project.run("--plan-until=dbx"), text)

    def test_names_that_one_test_sees_are_an_error(self, project: Project) -> None:
        """A step may not have the name of one in a folder above it."""
        monorepo(project)
        project.steps("@pytest.mark.plan_step\ndef db(): pass", name="services/conftest.py")
        result = project.run()
        text = "two steps are called 'db': services/conftest.py:5 and services/a/conftest.py:"
        refuses(result, text, status=pytest.ExitCode.INTERRUPTED)


class TestEager:
    """Steps that begin before all conftests are known."""

    def test_a_step_that_has_begun_keeps_its_name(self, project: Project) -> None:
        """A sibling that is found during collection has its full name; both names work."""
        monorepo(project, options=", eager=True")
        assert "services/b/db" in step_names(project, "services/a", "services")
        project.run("services/a", "services").assert_outcomes(passed=12)
        text = "--plan-until: several steps are called 'db'"
        refuses(project.run("services/a", "services", "--plan-until=db"), text)

    def test_both_known_at_the_start(self, project: Project) -> None:
        """Both have full names."""
        monorepo(project, options=", eager=True")
        project.run("services/a", "services/b").assert_outcomes(passed=12)
        assert "db" not in step_names(project, "services/a", "services/b")


class TestLaterRuns:
    """Recovery, keeping and reuse."""

    KILL = """
    import signal

    def test_kill(db):
        os.kill(os.getpid(), signal.SIGKILL)
    """

    @pytest.mark.parametrize(
        ("folders", "cleaner"),
        [
            (["services"], ["--plan-cleanup"]),
            (["services"], ["services/a"]),
            (["services/b"], ["--plan-cleanup"]),
            (["services/b"], ["services/a"]),
            (["services/b"], ["services"]),
        ],
    )
    def test_cleanup_after_sigkill(
        self, project: Project, folders: list[str], cleaner: list[str]
    ) -> None:
        """Each step is cleaned up by its own code, whatever the next process calls it."""
        monorepo(project)
        kill = project.tests(self.KILL, name="services/b/test_kill.py")
        result = project.run_apart(*folders, "-o", "plan_reaper=false")
        assert result.ret == -signal.SIGKILL
        kill.unlink()
        began = [line.split()[1] for line in project.calls if line.startswith("db")]
        (project.path / "calls.txt").unlink()
        result = project.run_apart(*cleaner)
        assert result.ret == 0
        done = project.calls[: 2 * len(began)]
        assert sorted(done) == sorted(f"{word} {one}" for word in ("drop", "undo") for one in began)
        if cleaner == ["services/a"]:
            assert "plan: db      ok" in result.stdout.str()  # its own name stays plain

    @pytest.mark.parametrize("options", [[], ["-n2", "-p", "xdist"]])
    def test_eager_steps_beside_a_dead_run_of_a_sibling(
        self, project: Project, options: list[str]
    ) -> None:
        """Steps that are loaded only to clean up after it are no part of this run."""
        monorepo(project, options=", eager=True")
        kill = project.tests(self.KILL, name="services/b/test_kill.py")
        project.run_apart("services/b", "-o", "plan_reaper=false")
        kill.unlink()
        mode = "--import-mode=importlib"  # the modules of two conftests have different names
        result = project.run_apart("services/a", "--plan-report=plan.json", mode, *options)
        result.assert_outcomes(passed=6)
        report = json.loads((project.path / "plan.json").read_text())
        assert [step["name"] for step in report["steps"]] == ["db", "orders", "named"]

    def test_late_conftests_of_an_eager_run_are_recorded(self, project: Project) -> None:
        """Steps of conftests that are loaded after eager steps began are cleaned up as well."""
        monorepo(project, options=", eager=True")
        kill = project.tests(self.KILL, name="services/b/test_kill.py")
        project.run_apart("services/a", "services", "-o", "plan_reaper=false")
        kill.unlink()
        (project.path / "calls.txt").unlink()
        assert project.run("--plan-cleanup").ret == 0
        assert sorted(project.calls) == ["drop a", "drop b", "undo a", "undo b"]

    def test_a_kept_step_is_reused_under_the_same_name(self, project: Project) -> None:
        """Both folders again: nothing is made twice."""
        monorepo(project)
        project.run("--plan-reuse")
        project.run("--plan-reuse").assert_outcomes(passed=12)
        assert sorted(project.calls) == ["db a", "db b"]
        project.run("--plan-cleanup")

    def test_a_kept_step_with_another_name_is_rebuilt(self, project: Project) -> None:
        """One folder, then both, then one: the line says what the step is called now."""
        monorepo(project)
        project.run("services/a", "--plan-reuse")
        result = project.run("--plan-reuse")
        result.assert_outcomes(passed=12)
        lines = plan_lines(result)
        assert "plan: db is cleaned up: it is called 'services/a/db' in this run" in lines
        result = project.run("services/b", "--plan-reuse")
        lines = plan_lines(result)
        assert "plan: services/b/db is cleaned up: it is called 'db' in this run" in lines
        assert "plan: services/a/db is cleaned up: it is no longer declared" in lines
        assert sorted(line for line in project.calls if line.startswith("drop")) == [
            "drop a", "drop a", "drop b",
        ]  # fmt: skip
        project.run("--plan-cleanup")

    def test_a_step_of_a_sibling_is_never_reused(self, project: Project) -> None:
        """Another folder's step of the same name and the same code is another step."""
        for folder in "ab":
            project.steps(
                """
                @pytest.mark.plan_step
                def db(config):
                    note("db")
                    return "same code"
                """,
                name=f"{folder}/conftest.py",
            )
            project.tests("def test_it(db): pass", name=f"{folder}/test_{folder}.py")
        project.run("a", "--plan-reuse")
        result = project.run("b", "--plan-reuse")
        assert "plan: db is rebuilt: it is no longer declared" in plan_lines(result)
        assert project.calls == ["db", "db"]
        project.run("--plan-cleanup")


def test_a_folder_above_rootdir_does_not_lead_out(project: Project) -> None:
    """Artifacts of a step in a conftest outside rootdir stay in the folder for artifacts."""
    for folder in "ab":
        project.steps(STEPS.format(folder=folder, options=""), name=f"{folder}/conftest.py")
        # Outside rootdir, fixtures of pytest are visible everywhere, so these tests use marks.
        project.tests(
            f"""
            @pytest.mark.plan("db")
            def test_it(plan): assert plan.state["db"].text == "{folder}"
            """,
            name=f"{folder}/test_{folder}.py",
        )
    root = project.path / "root"
    root.mkdir()
    result = project.run("--rootdir", str(root), "a", "b")
    result.assert_outcomes(passed=2)
    found = sorted(Path(root).rglob("dump.sql"))
    assert [file.read_text() for file in found] == ["a", "b"]
    assert [file.parts[-4:-1] for file in found] == [("%2E%2E", "a", "db"), ("%2E%2E", "b", "db")]
