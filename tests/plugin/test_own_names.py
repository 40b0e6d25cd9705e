"""Projects that use the names of the plugin for marks and fixtures of their own."""

from __future__ import annotations

import pytest

from tests.plugin.project import Project

OWN_FIXTURE = """
import pytest

@pytest.fixture
def plan(request):
    mark = request.node.get_closest_marker("plan")
    return mark.args[0] if mark.args else mark.kwargs["tier"]
"""
REGISTERED = """
def pytest_configure(config):
    config.addinivalue_line("markers", "plan(tier): the tariff that a test needs")
"""
TESTS = """
@pytest.mark.plan("free")
def test_name(plan): assert plan == "free"

@pytest.mark.plan(3, tier="gold")
def test_number(plan): assert plan == 3

@pytest.mark.plan(tier=object)
class TestKeyword:
    def test_it(self, plan): assert plan is object

@pytest.mark.plan
def test_bare(request): assert request.node.get_closest_marker("plan").args == ()

@pytest.mark.parametrize("one", [pytest.param(1, marks=pytest.mark.plan({"a": [1]}))])
def test_parameter(one, plan): assert plan == {"a": [1]}
"""


class TestWithoutSteps:
    """A project that declares no step, with a mark `plan` of its own."""

    @pytest.mark.parametrize("registered", ["", REGISTERED], ids=["unknown mark", "own mark"])
    @pytest.mark.parametrize(
        "options", [[], ["--strict-markers"], ["--plan-limit=60"]], ids=["", "strict", "limit"]
    )
    def test_own_mark_and_fixture_work(
        self, project: Project, registered: str, options: list[str]
    ) -> None:
        """The mark may have any arguments, and the fixture `plan` is the project's."""
        project.write("conftest.py", OWN_FIXTURE + registered)
        project.tests(TESTS)
        result = project.run(*options)
        assert result.ret == 0
        result.assert_outcomes(passed=5)
        result.stdout.no_fnmatch_line("*plan: *")

    def test_hook_that_adds_no_step_changes_nothing(self, project: Project) -> None:
        """`pytest_plan_configure` alone does not make the mark ours."""
        project.write("conftest.py", OWN_FIXTURE + "def pytest_plan_configure(plan): pass")
        project.tests(TESTS)
        project.run().assert_outcomes(passed=5)

    def test_selection_by_the_mark_works(self, project: Project) -> None:
        """`-m` selects tests by the project's own mark."""
        project.write("conftest.py", OWN_FIXTURE)
        project.tests(TESTS + "\ndef test_other(): pass")
        project.run("-m", "plan").assert_outcomes(passed=5, deselected=1)

    def test_both_marks_are_listed(self, project: Project) -> None:
        """`--markers` lists the project's mark and the plugin's."""
        project.write("conftest.py", REGISTERED)
        result = project.run("--markers")
        result.stdout.fnmatch_lines(["@pytest.mark.plan(tier): the tariff that a test needs"])
        result.stdout.fnmatch_lines(["@pytest.mark.plan([*]steps): *"])


class TestFixtureOfAnotherPlugin:
    """A plugin that has a fixture named `plan`."""

    def test_it_is_used_even_if_the_plugin_is_loaded_first(self, project: Project) -> None:
        """A fixture `plan` of any plugin overrides that of pytest-plan."""
        project.write("tariffs.py", OWN_FIXTURE)
        project.tests(TESTS)
        for order in (["-p", "tariffs"], ["-p", "pytest_plan", "-p", "tariffs"]):
            project.run_apart(*order).assert_outcomes(passed=5)
        result = project.pytester.runpytest_subprocess("-p", "tariffs", "-p", "pytest_plan")
        result.assert_outcomes(passed=5)

    def test_it_is_used_beside_steps(self, project: Project) -> None:
        """Such a fixture needs no step, and steps work as usual."""
        project.write("tariffs.py", "import pytest\n@pytest.fixture\ndef plan(): return 'free'")
        project.steps("@pytest.mark.plan_step\ndef db(): note('db'); return 7")
        project.tests("""
        def test_own(plan): assert plan == "free"

        @pytest.mark.skipif("'ALL' not in os.environ")
        def test_step(db): assert db == 7
        """)
        command = ("-p", "tariffs", "-p", "pytest_plan")
        result = project.pytester.runpytest_subprocess(*command)
        result.assert_outcomes(passed=1, skipped=1)
        assert project.calls == []
