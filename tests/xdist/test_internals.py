"""Fallbacks for missing internals of pytest-xdist and execnet."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_plan.plugin.compat import xdist_internals
from tests.xdist.cluster import Cluster, outcomes

STEPS = """
@pytest.mark.plan_step
def db():
    note("db")
    yield 7
    note("cleaned")
"""


@pytest.mark.parametrize(
    "missing",
    ["add_node_collection", "collection_is_completed", "numnodes", "remove_node"],
)
def test_scheduler_of_another_kind_gets_no_start_barrier(missing: str) -> None:
    """A scheduler without one of the expected attributes is left unchanged."""
    scheduler = SimpleNamespace(
        add_node_collection=None, collection_is_completed=False, numnodes=2, remove_node=None
    )
    delattr(scheduler, missing)
    before = dict(vars(scheduler))
    assert xdist_internals.hold_tests(scheduler, lambda node: False) is None
    assert vars(scheduler) == before


def test_run_without_a_start_barrier_passes(cluster: Cluster) -> None:
    """Without the start barrier, tests are distributed as usual as long as no worker dies."""
    cluster.steps(
        """
        from pytest_plan.plugin.compat import xdist_internals

        xdist_internals.hold_tests = lambda scheduler, is_gone: None
        """,
        STEPS,
    )
    cluster.tests("def test_it(db): assert db == 7")
    assert outcomes(cluster.two()) == {"passed": 1}
    assert cluster.calls == ["db", "cleaned"]


def test_worker_whose_process_is_unknown_counts_as_alive() -> None:
    """A worker whose process is unknown counts as alive, and trying to kill it raises no error."""
    for gateway in (SimpleNamespace(), SimpleNamespace(_io=SimpleNamespace())):
        node = SimpleNamespace(gateway=gateway)
        assert not xdist_internals.has_exited(node)
        xdist_internals.kill(node)


def test_workers_are_ended_by_xdist_itself(pytester: pytest.Pytester) -> None:
    """Ending the workers does nothing if xdist's session or its execnet group is not found."""
    config = pytester.parseconfig()
    xdist_internals.end_workers(config, 1.0)
    config.pluginmanager.register(SimpleNamespace(nodemanager=SimpleNamespace()), "dsession")
    xdist_internals.end_workers(config, 1.0)


def test_session_without_a_limit_of_new_workers(pytester: pytest.Pytester) -> None:
    """Stopping worker replacement does nothing if xdist's session or its limit is not found."""
    config = pytester.parseconfig()
    xdist_internals.start_no_more_workers(config)
    session = SimpleNamespace()
    config.pluginmanager.register(session, "dsession")
    xdist_internals.start_no_more_workers(config)
    assert vars(session) == {}


def test_only_what_cannot_be_sent_is_changed() -> None:
    """`sendable` escapes lone surrogates in all strings of a report, and keeps everything else."""
    data = {"é": ["a\udcff", ("\U0001f600", None, 1.5, True)], "k\udcfe": {"x": b"\xff"}}
    assert xdist_internals.sendable(data) == {
        "é": ["a\\udcff", ("\U0001f600", None, 1.5, True)],
        "k\\udcfe": {"x": b"\xff"},
    }
