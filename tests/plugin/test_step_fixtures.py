"""The fixtures of steps are found by pytest, and by nothing that inspects a conftest or plugin."""

from __future__ import annotations

import pytest

from tests.plugin.project import Project

STEPS = '''
import pytest
from pytest_plan import Step

@pytest.mark.plan_step
def shop():
    """The shop.

    >>> 2 + 2
    4
    """
    return "a shop"

@pytest.mark.plan_step(name="till")
class Till(Step):
    """The till.

    >>> 3 + 3
    6
    """

    def exec(self):
        """Open it.

        >>> 4 + 4
        8
        """
        return "a till"

@pytest.mark.plan_step
async def counter():
    """The counter.

    >>> 5 + 5
    10
    """
'''
EXAMPLES = ["Till", "Till.exec", "counter", "shop"]
# Records the names in each conftest and plugin whenever pytest calls one of these hooks.
WALKER = """
import inspect, sys, types
from calls import note

def walk(config):
    for plugin in config.pluginmanager.get_plugins():
        if isinstance(plugin, types.ModuleType) and plugin.__name__.endswith(("conftest", "ours")):
            for name, value in inspect.getmembers(plugin):
                if "plan_fixture" in name or "plan_fixture" in repr(value):
                    note(plugin.__file__, name)

def pytest_configure(config): walk(config)
def pytest_collectstart(collector): walk(collector.config)
def pytest_itemcollected(item): walk(item.config)
def pytest_collect_file(parent): walk(parent.config)
def pytest_collection_modifyitems(config): walk(config)
def pytest_runtest_setup(item): walk(item.config)
def pytest_sessionfinish(session): walk(session.config)
"""


def examples(result: pytest.RunResult) -> list[str]:
    """Return the names of the doctests that a run with `--collect-only -q` shows."""
    return sorted(line.rpartition("::")[2] for line in result.outlines if "::" in line)


class TestDoctest:
    """`--doctest-modules` collects the examples of a step once, under the user's names."""

    @pytest.mark.parametrize("conftest", ["conftest.py", "a/conftest.py"])
    def test_examples_in_a_conftest(self, project: Project, conftest: str) -> None:
        """The docstrings of functions, classes and their hooks are collected, and pass."""
        project.write(conftest, STEPS)
        result = project.run_apart("--doctest-modules", "--collect-only", "-q")
        assert examples(result) == [f"conftest.{name}" for name in EXAMPLES]
        project.run_apart("--doctest-modules").assert_outcomes(passed=4)

    def test_examples_in_a_plugin(self, project: Project) -> None:
        """The same holds for the steps of a plugin module."""
        project.write("ours.py", STEPS)
        result = project.run_apart("-p", "ours", "--doctest-modules", "--collect-only", "-q")
        assert examples(result) == [f"ours.{name}" for name in EXAMPLES]

    def test_example_in_a_text_file(self, project: Project) -> None:
        """`--doctest-glob` works in a project with steps."""
        project.write("conftest.py", STEPS)
        project.write("README.txt", ">>> 1 + 1\n2\n")
        project.run_apart("--doctest-glob=*.txt").assert_outcomes(passed=1)


@pytest.mark.parametrize("args", [(), (".",), ("a", "b"), ("b/test_b.py", "a")])
def test_nothing_is_seen_by_a_plugin_that_walks(project: Project, args: tuple[str, ...]) -> None:
    """During every hook of another plugin, each module has only the names that its author wrote."""
    project.write("walker.py", WALKER)
    project.write("ours.py", "import pytest\n@pytest.mark.plan_step\ndef net(): return 'net'")
    project.write("conftest.py", STEPS)
    project.steps("@pytest.mark.plan_step\ndef db(): return 'db'", name="a/conftest.py")
    project.steps("@pytest.mark.plan_step\ndef mq(): return 'mq'", name="b/conftest.py")
    project.tests(
        "def test_it(shop, till, net, db): assert net + db == 'netdb'", name="a/test_a.py"
    )
    project.tests("""
    def test_it(mq, net):
        import conftest
        assert mq + net == "mqnet"
        assert [name for name in dir(conftest) if "plan" in name] == ["plan_step"]  # imported
    """, name="b/test_b.py")  # fmt: skip
    result = project.run_apart("-p", "walker", "-p", "ours", *args)
    result.assert_outcomes(passed=2)
    assert project.calls == []


def test_fixtures_are_found_while_plugins_register_others(project: Project) -> None:
    """A plugin may register others at any time; the fixtures of steps are found anyway."""
    project.write("early.py", """
    import pytest

    class Nothing: pass

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(session): session.config.pluginmanager.register(Nothing(), "one")

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(collector):
        report = yield
        collector.config.pluginmanager.register(Nothing())
        return report
    """)  # fmt: skip
    project.write("conftest.py", STEPS)
    project.steps("@pytest.mark.plan_step\ndef db(): return 'db'", name="a/conftest.py")
    project.tests(
        "def test_it(shop, db): assert (shop, db) == ('a shop', 'db')", name="a/test_a.py"
    )
    project.run_apart("-p", "early").assert_outcomes(passed=1)


def test_fixture_in_a_forest_of_folders(project: Project) -> None:
    """Each folder's tests find the fixtures of the steps at and above them."""
    project.steps("@pytest.mark.plan_step\ndef top(): return 0")
    for folder in ("a", "a/b", "a/b/c"):
        name = folder[-1]
        project.steps(
            f"@pytest.mark.plan_step\ndef {name}(): return 1", name=f"{folder}/conftest.py"
        )
        project.write(f"{folder}/__init__.py", "")
    project.tests("def test_it(top, a, b, c): assert (top, a, b, c) == (0, 1, 1, 1)",
                  name="a/b/c/test_c.py")  # fmt: skip
    project.tests("def test_it(top, a): assert (top, a) == (0, 1)", name="a/test_a.py")
    for args in ((), ("a/b/c/test_c.py", "a/test_a.py"), ("a",)):
        project.run_apart("-W", "ignore::DeprecationWarning", *args).assert_outcomes(passed=2)
