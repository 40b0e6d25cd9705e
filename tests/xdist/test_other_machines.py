"""Values and variables that a worker on another machine cannot use.

Here, workers only say that they are elsewhere; tests/acceptance has workers that are.
"""

from __future__ import annotations

from tests.xdist.cluster import Cluster

STEPS = """
import dataclasses
from pytest_plan.plugin.session import worker

if "PYTEST_XDIST_WORKER" in os.environ and os.path.exists("elsewhere"):
    worker.network = lambda: "another one"

@dataclasses.dataclass
class Server:
    url: str

@pytest.mark.plan_step(needs=())
def inner():
    return "127.0.0.1:1"

@pytest.mark.plan_step(needs=())
def nested(inner):
    return {"servers": [("a", Secret(Server("http://user:pass@127.0.0.1:80")))]}

@pytest.mark.plan_step(needs=())
def raw():
    return b"[::1]:80"

@pytest.mark.plan_step(needs=())
def variable(ctx):
    ctx.setenv("HERE", "localhost:1")
    return "localhost:2"

@pytest.mark.plan_step(needs=())
def fine(ctx):
    ctx.setenv("NAME", "not-localhost")
    return ["127.0.0.1.example.org", 127, None]

@pytest.mark.plan_step(needs=())
def unpicklable():
    return lambda: "127.0.0.1"
"""
TESTS = """
@pytest.mark.parametrize("number", range(4))
@pytest.mark.plan("unpicklable")
def test_it(nested, raw, variable, fine, number): pass
"""
SAID = "which is another machine for worker"


def test_each_step_with_a_loopback_address_is_one_warning(cluster: Cluster) -> None:
    """It names the part and the address, shows no secret, and counts what tests need themselves."""
    cluster.steps(STEPS)
    cluster.tests(TESTS)
    cluster.write("elsewhere", "")
    result = cluster.two("-W", "default")
    assert result.ret == 0
    text = result.stdout.str()
    for what in (
        "the value of step 'nested' contains '127.0.0.1'",
        "the value of step 'raw' contains '::1'",
        "the value of step 'variable' contains 'localhost'",
    ):
        assert text.count(f"{what}, {SAID}") == 1
    assert text.count(SAID) == 3
    assert "pass" not in text.replace("passed", "")


def test_workers_of_this_machine_get_none(cluster: Cluster) -> None:
    """Also if their host has another name."""
    cluster.steps("import platform; platform.node = lambda: 'other'", STEPS)
    cluster.tests(TESTS)
    assert SAID not in cluster.two("-W", "default").stdout.str()
