"""Which functions and classes become steps, with which names and options, in which order."""

from __future__ import annotations

import pytest

from pytest_plan import plan_step
from tests.plugin.project import Project, plan_lines, refuses

DECORATED = """
from pytest_plan import Context, Step, plan_step

@plan_step
def plain(ctx: Context) -> int:
    return 1

@plan_step()
async def eventual(plain: int) -> int:
    return plain + 1

@plan_step(name="third", retries=1, needs=["eventual"])
def generated(ctx: Context):
    if ctx.attempt == 1:
        raise OSError("not yet")
    yield 3
    note("undone")

@plan_step(timeout="1m")
class Server(Step):
    def exec(self, third: int) -> int:
        return third + 1
"""
ONE = "def test_it({0}): note('test', {0})"


class TestDecorator:
    """`pytest_plan.plan_step`, the typed form of the mark."""

    def test_every_form_becomes_a_step_with_its_options(self, project: Project) -> None:
        """With and without parentheses, functions, generators, coroutines and classes are steps."""
        project.steps(DECORATED)
        project.tests("def test_it(server, third, eventual): assert server + third + eventual == 9")
        project.run("--strict-markers").assert_outcomes(passed=1)
        assert project.calls == ["undone"]

    def test_it_applies_the_mark_and_returns_what_it_decorates(self) -> None:
        """Everything that reads the mark finds the same mark, and the function is unchanged."""

        def one() -> None: ...
        def other() -> None: ...

        assert plan_step(one) is one
        assert plan_step(retries=2, per="worker")(other) is other
        marks = [pytest.mark.plan_step.mark, pytest.mark.plan_step(retries=2, per="worker").mark]
        assert [vars(step)["pytestmark"] for step in (one, other)] == [[mark] for mark in marks]

    def test_mistakes_are_those_of_the_mark(self, project: Project) -> None:
        """A misspelled option is an error with its place, and so is a name without a keyword."""
        project.steps("@plan_step(retrys=2)\ndef db(): pass")
        refuses(project.run(), "step 'db' (conftest.py:5)", "'retrys'; did you mean 'retries'")
        project.steps("@plan_step('db')\ndef db(): pass")
        refuses(project.run(), "conftest.py:5", "plan_step takes options by name only, not 'db'")
        project.steps("def db(): pass\nplan_step(db, retries=2)")
        refuses(project.run(), "write @plan_step(retries=...) above the step")


class TestForms:
    """Functions, generators, async functions, async generators and classes."""

    @pytest.mark.parametrize(
        ("source", "calls"),
        [
            ("def db(): note('run'); return 7", ["run", "test 7"]),
            (
                "def db():\n    note('run')\n    yield 7\n    note('undo')",
                ["run", "test 7", "undo"],
            ),
            ("async def db(): note('run'); return 7", ["run", "test 7"]),
            (
                "async def db():\n    import asyncio\n    await asyncio.sleep(0)\n    note('run')\n"
                "    yield 7\n    await asyncio.sleep(0)\n    note('undo')",
                ["run", "test 7", "undo"],
            ),
            ("class Db(Step):\n    def exec(self): note('run'); return 7", ["run", "test 7"]),
            (
                "class Db(Step):\n    def exec(self):\n        note('run')\n        yield 7\n"
                "        note('undo')\n    def cleanup(self, value): note('cleanup', value)",
                ["run", "test 7", "cleanup 7", "undo"],
            ),
        ],
        ids=["function", "generator", "async", "async generator", "class", "generator in a class"],
    )
    def test_form_runs_once_and_gives_its_value(
        self, project: Project, source: str, calls: list[str]
    ) -> None:
        """Every form runs once, its value is a fixture, and the code after a `yield` cleans up."""
        project.steps(f"@pytest.mark.plan_step\n{source}\n")
        project.tests(ONE.format("db") + "\ndef test_other(db): assert db == 7")
        result = project.run()
        assert result.ret == 0
        result.assert_outcomes(passed=2)
        assert project.calls == calls

    def test_class_has_four_hooks(self, project: Project) -> None:
        """The hooks of a class run in order, each with the parameters that it names."""
        project.steps("""
        @pytest.mark.plan_step
        class HTTPServer(Step):
            def pre_exec(self, ctx, config): note("pre_exec", ctx.step, config is not None)
            def exec(self, state): note("exec"); state["key"] = "kept"; return "value"
            def post_exec(self, value): note("post_exec", value)
            def cleanup(self, value, state): note("cleanup", value, state["key"])
        """)
        project.tests(ONE.format("http_server"))
        project.run().assert_outcomes(passed=1)
        assert project.calls == [
            "pre_exec http_server True",
            "exec",
            "post_exec value",
            "test value",
            "cleanup value kept",
        ]

    def test_hooks_may_be_in_the_mark(self, project: Project) -> None:
        """A function step takes its other hooks as options of its mark."""
        project.steps("""
        def before(ctx): note("pre_exec", ctx.step)
        def check(value): note("post_exec", value)
        async def drop(value, ctx): note("cleanup", value, ctx.reason)

        @pytest.mark.plan_step(pre_exec=before, post_exec=check, cleanup=drop)
        def db(): note("exec"); return 7
        """)
        project.tests(ONE.format("db"))
        project.run().assert_outcomes(passed=1)
        assert project.calls == [
            "pre_exec db",
            "exec",
            "post_exec 7",
            "test 7",
            "cleanup 7 success",
        ]

    def test_mark_is_not_inherited(self, project: Project) -> None:
        """A subclass of a step class is only a step if it is marked itself."""
        project.steps("""
        @pytest.mark.plan_step
        class Base(Step):
            retries = 3
            def exec(self): return type(self).__name__

        class Other(Base):
            pass

        @pytest.mark.plan_step
        class Marked(Base):
            pass
        """)
        project.tests("def test_it(plan): note(*plan.results); note(plan.state['marked'])")
        project.run().assert_outcomes(passed=1)
        assert project.calls == ["base marked", "Marked"]

    def test_parameters_come_by_name(self, project: Project) -> None:
        """A step can take ctx, state, config and the values of other steps, in any order."""
        project.steps("""
        @pytest.mark.plan_step
        def one(): return 1

        @pytest.mark.plan_step
        def none(): return None

        @pytest.mark.plan_step
        def all_of_them(state, none, one, config, ctx, two="absent", *args, **kwargs):
            note(one, none, two, config.rootpath == __import__("pathlib").Path.cwd())
            note(state["one"], ctx.step, ctx.attempt)
        """)
        project.tests("def test_it(all_of_them): assert all_of_them is None")
        project.run().assert_outcomes(passed=1)
        assert project.calls == ["1 None absent True", "1 all_of_them 1"]

    def test_tail_of_a_generator_has_a_context_for_cleanup(self, project: Project) -> None:
        """After the `yield`, ctx has the reason for the cleanup and the remaining time."""
        project.steps("""
        @pytest.mark.plan_step(timeout="90s", cleanup_timeout="30s")
        def db(ctx):
            note(ctx.reason, 60 < ctx.remaining() <= 90)
            yield
            note(ctx.reason, 0 < ctx.remaining() <= 30)
        """)
        project.tests("def test_it(db): pass")
        project.run().assert_outcomes(passed=1)
        assert project.calls == ["None True", "success True"]


class TestNamesAndOptions:
    """The name and the options in the mark."""

    def test_name_replaces_the_functions(self, project: Project) -> None:
        """`name=` sets the name of the step, its fixture and its State key."""
        project.steps("@pytest.mark.plan_step(name='db')\ndef make_database(): return 7")
        project.tests("def test_it(db, plan): note(db, plan.state['db'], *plan.results)")
        project.run().assert_outcomes(passed=1)
        assert project.calls == ["7 7 db"]

    def test_options_have_effect(self, project: Project) -> None:
        """Every option of the mark reaches the step and is shown by `--plan-show`."""
        project.steps("""
        @pytest.mark.plan_step
        def net(): pass

        @pytest.mark.plan_step(
            needs=["net"], retries=3, retry_wait="1s", retry_on=OSError, timeout="1m",
            cleanup_timeout="2m", pause="10ms", cleanup_when="attempted", autouse=True, eager=True,
        )
        def db(): pass
        """)
        project.tests("def test_it(): pass")
        project.run("--plan-show").stdout.fnmatch_lines(
            [
                "*db *needs net*",
                "*retries=3 *timeout=1m 00s *pause=0.01s *cleanup_timeout=2m 00s "
                "*cleanup_when=attempted *autouse *eager *conftest.py:9",
            ]
        )

    def test_option_wins_over_class_attribute(self, project: Project) -> None:
        """An option of the mark overrides the class attribute, which overrides the default."""
        project.steps("""
        class Base(Step):
            retries = 1
            retry_wait = 0
            def exec(self, ctx):
                note(ctx.step, ctx.attempt)
                raise RuntimeError("no")

        @pytest.mark.plan_step(retries=2)
        class ByMark(Base): needs = ()

        @pytest.mark.plan_step
        class ByAttribute(Base): needs = ()
        """)
        project.tests("def test_it(by_mark, by_attribute): pass")
        project.run("--plan-jobs=1", "--plan-continue-on-error")
        assert project.calls == [
            *(f"by_mark {attempt}" for attempt in (1, 2, 3)),
            *(f"by_attribute {attempt}" for attempt in (1, 2)),
        ]

    @pytest.mark.parametrize(
        ("mark", "reason"),
        [
            ("skip(reason='no docker')", "no docker"),
            ("skip", "unconditional skip"),
            ("skipif(True, reason='wrong system')", "wrong system"),
            ("skipif('sys.version_info > (3,)', reason='too new')", "too new"),
            ("skipif('THERE', reason='it is there')", "it is there"),
        ],
    )
    @pytest.mark.parametrize("above", [True, False])
    def test_skip_mark_skips_the_step(
        self, project: Project, mark: str, reason: str, above: bool
    ) -> None:
        """The marks skip and skipif skip the step and what needs it, with their reason."""
        marks = [f"@pytest.mark.{mark}", "@pytest.mark.plan_step"]
        lines = [*(marks if above else reversed(marks)), "def db(): note('db')"]
        project.steps("import sys\nTHERE = True\n" + "\n".join(lines))
        project.tests("def test_it(db): note('test')\ndef test_free(): pass")
        result = project.run("-rs")
        assert result.ret == 0
        result.assert_outcomes(passed=1, skipped=1)
        result.stdout.fnmatch_lines([f"SKIPPED * plan step 'db': {reason}"])
        assert project.calls == []

    @pytest.mark.parametrize(
        "mark", ["skipif(False, reason='no')", "skipif('not THERE', reason='no')"]
    )
    def test_false_skipif_does_not_skip(self, project: Project, mark: str) -> None:
        """A skipif with a false condition does not skip the step."""
        project.steps(f"THERE = True\n@pytest.mark.{mark}\n@pytest.mark.plan_step\ndef db(): pass")
        project.tests("def test_it(db): pass")
        project.run().assert_outcomes(passed=1)

    def test_skip_mark_on_a_class(self, project: Project) -> None:
        """A skip mark on a step class skips the step."""
        project.steps(
            "@pytest.mark.skip(reason='no')\n@pytest.mark.plan_step\nclass Db(Step): pass"
        )
        project.tests("def test_it(db): pass")
        project.run().assert_outcomes(skipped=1)


class TestPlaces:
    """Steps in conftests and plugin modules."""

    def test_folder_has_steps_of_its_own(self, project: Project) -> None:
        """A conftest in a folder declares steps for that folder; they can need steps from above."""
        project.steps("@pytest.mark.plan_step\ndef db(): note('db'); return 1")
        project.steps(
            "@pytest.mark.plan_step\ndef schema(db): note('schema'); return db + 1",
            name="unit/conftest.py",
        )
        project.tests("def test_unit(schema): assert schema == 2", name="unit/test_unit.py")
        project.tests("def test_it(db): assert db == 1")
        project.run(".").assert_outcomes(passed=2)
        assert project.calls == ["db", "schema"]

    def test_siblings_are_not_ordered(self, project: Project) -> None:
        """Steps of sibling folders wait for steps from above, but not for each other."""
        project.steps("@pytest.mark.plan_step\ndef root(): pass")
        for name in ("a", "b"):
            project.steps(
                f"@pytest.mark.plan_step\ndef {name}1(): pass\n"
                f"@pytest.mark.plan_step\ndef {name}2(): pass",
                name=f"{name}/conftest.py",
            )
            project.tests(f"def test_it({name}1, {name}2): pass", name=f"{name}/test_{name}.py")
        project.run("--plan-show").stdout.fnmatch_lines(
            [
                "root *no dependencies",
                "a1 *after root",
                "a2 *after *a1",
                "b1 *after root",
                "b2 *after *b1",
            ],
        )

    def test_step_of_a_sibling_is_not_visible(self, project: Project) -> None:
        """A step of one folder has no fixture in a sibling folder."""
        project.steps("@pytest.mark.plan_step\ndef db(): note('db')", name="a/conftest.py")
        project.tests("def test_a(db): pass", name="a/test_a.py")
        project.tests("def test_b(db): pass", name="b/test_b.py")
        result = project.run(".")
        result.assert_outcomes(passed=1, errors=1)
        result.stdout.fnmatch_lines(["*fixture 'db' not found*"])

    def test_plugin_module_by_option(self, project: Project) -> None:
        """Steps of a module loaded with `-p` come before those of all conftests."""
        project.write("steps.py", "import pytest\n@pytest.mark.plan_step\ndef net(): return 1\n")
        project.steps("@pytest.mark.plan_step\ndef db(): pass")
        project.tests("def test_it(net, db): assert net == 1")
        result = project.run("-p", "steps")
        result.assert_outcomes(passed=1)
        assert [line.split()[1] for line in plan_lines(result)[:2]] == ["net", "db"]

    def test_plugin_module_by_conftest(self, project: Project) -> None:
        """Steps of a module in `pytest_plugins` come before those of the conftest."""
        project.write("steps.py", "import pytest\n@pytest.mark.plan_step\ndef net(): return 1\n")
        project.steps("pytest_plugins = ['steps']\n@pytest.mark.plan_step\ndef db(): pass")
        project.tests("def test_it(net, db): assert net == 1")
        result = project.run()
        result.assert_outcomes(passed=1)
        assert [line.split()[1] for line in plan_lines(result)[:2]] == ["net", "db"]

    def test_imported_step_is_declared_once(self, project: Project) -> None:
        """A function that appears in two conftests or under two names is one step."""
        project.write("steps.py", "import pytest\n@pytest.mark.plan_step\ndef db(): return 1\n")
        project.steps("from steps import db\nfrom steps import db as database")
        project.steps("from steps import db", name="unit/conftest.py")
        project.tests("def test_unit(db): assert db == 1", name="unit/test_unit.py")
        project.tests("def test_it(db, plan): assert list(plan.results) == ['db']")
        project.run(".").assert_outcomes(passed=2)

    def test_order_is_by_line_not_by_name(self, project: Project) -> None:
        """Steps of one file are ordered by their first line, whatever their names and kinds."""
        project.steps("""
        def decorated(function):
            return pytest.mark.plan_step(function)

        @pytest.mark.plan_step
        def zebra(): pass

        @pytest.mark.plan_step
        class Yak(Step): pass

        @decorated
        def ape(): pass
        """)
        project.tests("def test_it(plan): note(*plan.results)")
        project.run().assert_outcomes(passed=1)
        assert project.calls == ["zebra yak ape"]

    def test_plain_list_runs_in_its_order(self, project: Project) -> None:
        """Steps that name no needs run one after the other and are cleaned up in reverse."""
        project.steps("""
        @pytest.mark.plan_step
        def c():
            note("c"); yield; note("undo c")

        @pytest.mark.plan_step
        def b():
            note("b"); yield; note("undo b")

        @pytest.mark.plan_step
        def a():
            note("a"); yield; note("undo a")
        """)
        project.tests("def test_it(a): note('test')")
        project.run().assert_outcomes(passed=1)
        assert project.calls == ["c", "b", "a", "test", "undo a", "undo b", "undo c"]

    def test_other_objects_with_a_mark_are_ignored(self, project: Project) -> None:
        """Only functions and classes are steps, not other objects with a `pytestmark` attribute."""
        project.steps("""
        class Anything:
            def __getattr__(self, name): return [pytest.mark.plan_step]

        anything = Anything()

        @pytest.mark.usefixtures()
        def helper(): pass
        """)
        project.tests("def test_it(): pass")
        project.run().assert_outcomes(passed=1)


class TestByCode:
    """Steps that the hook pytest_plan_configure adds."""

    HOOK = """
    def make(): note("make"); return 7
    def pytest_plan_configure(config, plan):
        plan.add_step(GenericStep(exec=make).with_retries(1), name="db", timeout="1m")
        plan.add_pause("1ms")
        plan.add_step(GenericStep(exec=lambda: note("unnamed")))
    """

    def test_named_steps_are_fixtures(self, project: Project) -> None:
        """A step that was added under a name has a fixture."""
        project.steps(self.HOOK)
        project.tests("def test_it(db): note('test', db)")
        project.run().assert_outcomes(passed=1)
        assert project.calls == ["make", "test 7"]

    def test_unnamed_steps_run_with_all(self, project: Project) -> None:
        """Unnamed steps and pauses run in their place in the plan, but have no fixture."""
        project.steps(self.HOOK)
        project.tests("def test_it(plan): note(*plan.results)")
        project.run().assert_outcomes(passed=1)
        assert project.calls == ["make", "unnamed", "db pause-1 step-3"]

    def test_hook_is_called_once_before_collection(self, project: Project) -> None:
        """The hook is called once in every plugin and conftest, even for `--collect-only`."""
        project.write(
            "more.py",
            "from calls import note\ndef pytest_plan_configure(plan): note('plugin')\n",
        )
        project.steps("""
        def pytest_plan_configure(): note("conftest")
        def pytest_collection(): note("collection")
        """)
        project.tests("def test_it(): pass")
        project.run("-p", "more", "--collect-only")
        assert sorted(project.calls[:2]) == ["conftest", "plugin"]
        assert project.calls[2:] == ["collection"]

    def test_steps_by_code_and_by_mark_are_one_plan(self, project: Project) -> None:
        """Added and marked steps can need each other, and a duplicate name is an error."""
        project.steps("""
        @pytest.mark.plan_step
        def net(): return 1

        @pytest.mark.plan_step
        def seed(db): return db + 1

        def pytest_plan_configure(plan):
            plan.add_step(GenericStep(exec=lambda net: net + 1), name="db")
        """)
        project.tests("def test_it(seed): assert seed == 3")
        project.run().assert_outcomes(passed=1)

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ("plan.add_step(GenericStep(), name='net')", "two steps are called 'net'"),
            ("plan.add_step(GenericStep(), name='a b')", "invalid step name 'a b'"),
            ("plan.add_step(GenericStep(), name='ctx')", "'ctx'"),
            ("plan.add_step(print)", "is not a step"),
            ("plan.add_step(GenericStep(), name='x', retires=1)", "unknown option 'retires'"),
            ("plan.add_pause('soon')", "'soon' is not a duration"),
        ],
    )
    def test_mistake_is_a_usage_error(self, project: Project, line: str, says: str) -> None:
        """A mistake in add_step is a usage error that names the line."""
        project.steps(f"""
        @pytest.mark.plan_step
        def net(): pass

        def pytest_plan_configure(plan):
            {line}
        """)
        project.tests("def test_it(): pass")
        result = project.run()
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        said = result.stderr.str() + result.stdout.str()
        assert says in said
        assert "conftest.py:10" in said
        assert "Traceback" not in said
        assert "INTERNALERROR" not in said
