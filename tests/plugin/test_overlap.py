"""`plan_overlap` without workers, and what `--plan-show` says about it."""

from __future__ import annotations

import pytest

from pytest_plan.plugin.xdist.scheduling.readiness import waits
from tests.plugin.project import Project, plan_lines, refuses

STEPS = """
@pytest.mark.plan_step(needs=())
def db(): return 1

@pytest.mark.plan_step(needs=())
def web(): return 2
"""


@pytest.mark.parametrize("source", ["--plan-overlap", "plan_overlap in pytest.ini"])
def test_it_does_nothing_without_workers(project: Project, source: str) -> None:
    """Without workers, one line says so, every step comes first, and the run is green."""
    project.steps(STEPS)
    project.tests("def test_free(): pass\ndef test_db(db): assert db == 1")
    args = [source] if source.startswith("-") else []
    if not args:
        project.write("pytest.ini", "[pytest]\nplan_overlap = true\n")
    result = project.run(*args)
    result.assert_outcomes(passed=2)
    said = plan_lines(result)
    line = f"plan: {source} needs workers, so tests begin after the last step; -n 1 is enough"
    assert said[0] == line
    assert said[1].split() == ["plan:", "db", "ok", "T"]


def test_it_says_nothing_without_a_needed_step(project: Project) -> None:
    """If no test needs a step, nothing is said about workers, and an invalid value is refused."""
    project.steps(STEPS)
    project.tests("def test_free(): pass")
    assert plan_lines(project.run("--plan-overlap")) == ["plan: no selected test needs a step"]
    project.write("pytest.ini", "[pytest]\nplan_overlap = perhaps\n")
    refuses(project.run(), "plan_overlap in pytest.ini", "perhaps")


def test_show_counts_the_tests_that_begin_early(project: Project) -> None:
    """`--plan-show` says how many tests begin at once, after some steps, and after all."""
    project.steps(STEPS, "@pytest.mark.plan_step\ndef app(db): return 3")
    project.tests(
        """
        def test_free(): pass
        def test_db(db): pass
        def test_app(app): pass
        def test_both(app, web): pass
        @pytest.mark.plan_alone
        def test_alone(): pass
        """
    )
    line = "with workers (-n): tests begin 1 at once, 1 after db, 1 after app, 2 after all steps"
    assert project.run("--plan-overlap", "--plan-show").outlines[-4] == line
    assert "with workers" not in project.run("--plan-show").stdout.str()
    project.tests("def test_all(plan): pass\n@pytest.mark.plan\ndef test_too(): pass")
    line = "with workers (-n): every test waits for all steps, so plan_overlap changes nothing"
    assert line in project.run("--plan-overlap", "--plan-show").outlines


def test_tests_that_share_fixtures_wait_together(project: Project) -> None:
    """They wait for the same steps if they share an instance of a fixture that outlives them."""
    project.tests(
        """
        @pytest.fixture(scope="class")
        def of_class(): pass
        @pytest.fixture(scope="module", params=[1, 2])
        def of_module(request): pass
        @pytest.fixture(scope="session", params=["a", "b"])
        def of_session(request): pass
        @pytest.fixture(scope="session")
        def plain(): pass

        class TestOne:
            def test_a(self, of_class): pass      # needs s0
            def test_b(self): pass
            def test_c(self, of_class): pass
        class TestTwo:
            def test_d(self, of_class): pass
        def test_e(of_module): pass               # needs s1, with 1
        def test_f(of_module): pass               # needs s2, with 2
        def test_g(of_session): pass              # needs s3, with a
        def test_h(of_session, plain): pass       # needs s4, with b
        def test_i(plain): pass
        def test_j(of_class): pass
        """
    )
    items, _ = project.pytester.inline_genitems("-p", "pytest_plan")
    own = {
        "test_a": "s0",
        "test_e[1]": "s1",
        "test_f[2]": "s2",
        "test_g[a]": "s3",
        "test_h[b]": "s4",
    }
    needs = {item: (own[item.name],) if item.name in own else () for item in items}
    found = waits(items, needs, lambda item: item.name == "test_c")  # it is in another part
    waited = {
        item.name: found.combinations[number]
        for item, number in zip(items, found.numbers, strict=True)
    }
    expected = {
        "test_a": ("s0",),
        **{f"test_{name}[1]": ("s1",) for name in "ef"},
        **{f"test_{name}[2]": ("s2",) for name in "ef"},
        **{f"test_{name}[a]": ("s3",) for name in "gh"},
        **{f"test_{name}[b]": ("s4",) for name in "gh"},
    }
    assert waited == {name: expected.get(name, ()) for name in waited}
    assert waits([], {}, str) == ([], [])
    assert waits(items[:3], needs, lambda item: 0).numbers == [0, 1, 0]
