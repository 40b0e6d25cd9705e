"""Steps of one name in sibling folders: the controller and its workers call them the same."""

from __future__ import annotations

import pytest

from tests.plugin.project import refuses
from tests.xdist.cluster import Cluster, once, outcomes

STEPS = """
@pytest.mark.plan_step{options}
def db(ctx):
    note("{folder}", os.environ.get("PYTEST_XDIST_WORKER", "controller"))
    yield "{folder}"
    note("cleaned {folder}")


@pytest.mark.plan_step
def orders(db, state):
    assert state["db"] == db
    return f"orders of {{db}}"
"""
TESTS = """
@pytest.mark.parametrize("number", range(3))
def test_fixture(db, orders, number):
    assert (db, orders) == ("{folder}", "orders of {folder}")


@pytest.mark.plan("orders")
def test_mark(plan):
    assert plan.state["orders"] == "orders of {folder}"
    assert plan.state["db"] == plan.state.get("db") == plan.state.wait_for("db", 5) == "{folder}"
    assert plan.state.snapshot()["db"] == dict(plan.state)["db"] == "{folder}"
    assert plan.results["db"] == plan.results["services/{folder}/db"]
    plan.need("db", "orders", "services/{folder}/db")


def test_fixture_of_the_root(database, kept_state):
    assert database == kept_state["db"] == "{folder}"
"""
ROOT = """
@pytest.fixture
def database(plan):
    return plan.state["db"]


@pytest.fixture(scope="session")
def kept_state(plan):
    return plan.state
"""


def monorepo(cluster: Cluster, options: str = "") -> None:
    """Write two services that both have the steps `db` and `orders`."""
    cluster.steps(ROOT)
    for folder in "ab":
        where = f"services/{folder}"
        cluster.steps(STEPS.format(folder=folder, options=options), name=f"{where}/conftest.py")
        cluster.tests(TESTS.format(folder=folder), name=f"{where}/test_{folder}.py")


@pytest.mark.parametrize("dist", ["load", "loadscope", "loadfile"])
@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_each_folder_sees_its_own(cluster: Cluster, mode: str, dist: str) -> None:
    """However tests are distributed; each step runs once, on the controller."""
    monorepo(cluster)
    result = cluster.two("--import-mode", mode, "--dist", dist)
    assert outcomes(result) == {"passed": 10}
    assert sorted(cluster.calls) == ["a controller", "b controller", "cleaned a", "cleaned b"]
    once(result, "services/a/db", "services/b/db", "services/a/orders", "services/b/orders")


def test_one_folder_alone_has_plain_names(cluster: Cluster) -> None:
    """In the controller as well."""
    monorepo(cluster)
    result = cluster.two("services/b")
    assert outcomes(result) == {"passed": 5}
    once(result, "db", "orders")


def test_the_steps_of_one_folder_are_selected(cluster: Cluster) -> None:
    """Names come from all conftests of the run, not only from those of needed steps."""
    monorepo(cluster)
    result = cluster.two("-k", "test_mark and not services/b", "--deselect", "services/b")
    assert outcomes(result) == {"passed": 1}
    once(result, "services/a/db", "services/a/orders")
    assert cluster.calls == ["a controller", "cleaned a"]


@pytest.mark.parametrize("folders", [["services/a", "services"], ["services/a", "services/b"]])
def test_eager_steps(cluster: Cluster, folders: list[str]) -> None:
    """A step that began before the workers existed keeps its name, in the workers as well."""
    monorepo(cluster, options="(eager=True)")
    result = cluster.two(*folders)
    assert outcomes(result) == {"passed": 10}
    first = "" if folders[1] == "services" else "services/a/"
    once(result, f"{first}db", f"{first}orders", "services/b/db", "services/b/orders")


def test_a_replaced_worker_sees_its_own(cluster: Cluster) -> None:
    """The clone of a crashed worker collects the same conftests."""
    monorepo(cluster)
    cluster.tests("def test_crash(db): os._exit(1)", name="services/a/test_0.py")
    result = cluster.apart("-n", "1")
    assert outcomes(result) == {"passed": 10, "failed": 1}
    assert sorted(cluster.calls) == ["a controller", "b controller", "cleaned a", "cleaned b"]


def test_ambiguous_names_are_refused(cluster: Cluster) -> None:
    """On the command line and in a mark of a test that sees neither step."""
    monorepo(cluster)
    full = "several steps are called 'db'; use the full name of one: services/a/db, services/b/db"
    for option in ("--plan-until", "--plan-skip"):
        refuses(cluster.two(option, "db"), f"{option}: {full}")
    cluster.tests("@pytest.mark.plan('db')\ndef test_it(): pass", name="zz/test_zz.py")
    refuses(cluster.two(), f"zz/test_zz.py::test_it: @pytest.mark.plan: {full}")
    assert cluster.calls == []


def test_full_names(cluster: Cluster) -> None:
    """They reach each step from everywhere, whether or not the name is unique in the run."""
    monorepo(cluster)
    cluster.tests(
        """
        @pytest.mark.plan("services/a/db")
        def test_it(plan):
            plan.need("services/a/db")
            assert plan.state["services/a/db"] == "a"
            assert plan.results["services/a/db"].outcome == "succeeded"
        """,
        name="zz/test_zz.py",
    )
    assert outcomes(cluster.two("services", "zz")) == {"passed": 11}
    assert outcomes(cluster.two("services/a", "zz")) == {"passed": 6}


def test_two_conftests_may_import_one_step(cluster: Cluster) -> None:
    """The controller loads both, although neither defines the function."""
    cluster.write(
        "shared.py",
        """
        import pytest

        @pytest.mark.plan_step
        def db(ctx):
            return ctx.step
        """,
    )
    for folder in "ab":
        cluster.write(f"{folder}/conftest.py", "from shared import db")
        test = f"def test_it(db): assert db == '{folder}/db'"
        cluster.tests(test, name=f"{folder}/test_{folder}.py")
    result = cluster.two()
    assert outcomes(result) == {"passed": 2}
    once(result, "a/db", "b/db")
