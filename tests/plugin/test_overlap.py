"""`plan_overlap` without workers, and what `--plan-show` says about it."""

from __future__ import annotations

import pytest

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
