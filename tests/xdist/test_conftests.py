"""Steps that the controller does not find by itself, such as those in sub-directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.xdist.cluster import Cluster, once, outcomes

STEP = """
@pytest.mark.plan_step
def {name}():
    note("{name}", os.environ.get("PYTEST_XDIST_WORKER", "controller"))
    yield "value of {name}"
    note("cleaned {name}")
"""


def _tree(cluster: Cluster) -> None:
    cluster.steps(STEP.format(name="db"))
    for folder in ("api", "web/ui"):
        name = Path(folder).name
        cluster.steps(STEP.format(name=name), name=f"{folder}/conftest.py")
        cluster.tests(
            f"""
            def test_{name}(db, {name}):
                assert ({name}, db) == ("value of {name}", "value of db")
            """,
            name=f"{folder}/test_{name}.py",
        )


@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_conftests_that_only_workers_saw_are_loaded(cluster: Cluster, mode: str) -> None:
    """Steps in any directory run on the controller, although the controller collects nothing."""
    _tree(cluster)
    cluster.write("web/conftest.py", "")
    result = cluster.two("--import-mode", mode)
    assert outcomes(result) == {"passed": 2}
    assert sorted(cluster.calls[:3]) == ["api controller", "db controller", "ui controller"]
    assert sorted(cluster.calls[3:]) == ["cleaned api", "cleaned db", "cleaned ui"]
    once(result, "db", "api", "ui")


def test_only_the_needed_conftest_counts(cluster: Cluster) -> None:
    """If one test is selected, the steps of the other directory do not run."""
    _tree(cluster)
    result = cluster.two("web/ui/test_ui.py::test_ui")
    assert outcomes(result) == {"passed": 1}
    once(result, "db", "ui")


def test_steps_of_a_package_given_by_name(cluster: Cluster) -> None:
    """`--pyargs` finds the steps of an importable package, including its sub-packages."""
    for folder in ("shop", "shop/deep"):
        cluster.write(f"{folder}/__init__.py", "")
    cluster.steps(STEP.format(name="db"), name="shop/conftest.py")
    cluster.steps(STEP.format(name="deep"), name="shop/deep/conftest.py")
    cluster.tests("def test_it(db, deep): pass", name="shop/deep/test_deep.py")
    result = cluster.two("--pyargs", "shop")
    assert outcomes(result) == {"passed": 1}
    once(result, "db", "deep")


def test_run_from_another_directory(cluster: Cluster) -> None:
    """Conftests are found when the working directory is not the rootdir."""
    _tree(cluster)
    cluster.write("pytest.ini", "[pytest]")
    cluster.write("elsewhere/empty", "")
    conftest = cluster.path
    with cluster.start(
        "-n", "2", f"--rootdir={conftest}", "-c", conftest / "pytest.ini", conftest / "web"
    ) as live:
        result = live.end()
    assert outcomes(result) == {"passed": 1}
    once(result, "db", "ui")


def test_step_unknown_to_the_controller_is_an_error_of_its_tests(cluster: Cluster) -> None:
    """A step that only workers declare fails the tests that need it; they are never skipped."""
    cluster.steps(
        STEP.format(name="db"),
        """
        if "PYTEST_XDIST_WORKER" in os.environ:
            @pytest.mark.plan_step
            def ghost(): note("ghost")
        """,
    )
    cluster.tests("""
    def test_ghost(ghost): note("ran")
    def test_both(db, ghost): note("ran")
    def test_db(db): pass
    """)
    result = cluster.two()
    assert outcomes(result) == {"passed": 1, "blocked": 2}
    assert result.ret == 1
    said = "unknown plan step 'ghost' (the process that runs the plan knows: db)"
    assert f"2 tests blocked: {said}" in result.stdout.str()
    assert cluster.calls == ["db controller", "cleaned db"]


def test_steps_added_by_code_are_the_same_everywhere(cluster: Cluster) -> None:
    """`pytest_plan_configure` is called in every process, but a step it adds runs once."""
    cluster.steps("""
    def pytest_plan_configure(config, plan):
        note("configure", os.environ.get("PYTEST_XDIST_WORKER", "controller"))
        plan.add_step(GenericStep(exec=lambda: note("exec") or "made"), name="coded")
        if hasattr(config, "workerinput"):
            plan.add_step(GenericStep(exec=lambda: note("wrong")), name="only_here", needs=())
    """)
    cluster.tests("""
    def test_coded(coded): assert coded == "made"
    def test_only_here(only_here): note("ran")
    """)
    result = cluster.two()
    assert outcomes(result) == {"passed": 1, "blocked": 1}
    assert sorted(cluster.notes("configure")) == ["controller", "gw0", "gw1"]
    assert [call for call in cluster.calls if "configure" not in call] == ["exec"]
    assert "unknown plan step 'only_here'" in result.stdout.str()


def test_conftest_that_the_controller_cannot_load_is_one_clear_error(cluster: Cluster) -> None:
    """A conftest that can only be loaded in workers ends the run with its path and its error."""
    cluster.steps(
        """
        if "PYTEST_XDIST_WORKER" not in os.environ:
            raise RuntimeError("works in workers only")
        """,
        STEP.format(name="deep"),
        name="sub/deep/conftest.py",
    )
    cluster.tests("def test_it(deep): pass", name="sub/deep/test_it.py")
    result = cluster.two()
    said = result.stdout.str() + result.stderr.str()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "sub/deep/conftest.py" in said
    assert "works in workers only" in said
