"""Workers on other machines: network namespaces, each with an address and an sshd of its own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.machines import CONTROLLER, HOSTS, Fleet, Machines, running_machines
from tests.plugin.project import plan_lines
from tests.xdist.cluster import Live, outcomes, wait_until

pytestmark = pytest.mark.engines
machines = running_machines

STEPS = """
import sys
from pytest_plan.steps import PostgreSQL, Redis, http, service

@pytest.mark.plan_step(needs=())
class postgres(PostgreSQL):
    pass

@pytest.mark.plan_step(needs=())
class redis_url(Redis):
    pass

@pytest.mark.plan_step(needs=())
def web(ctx):
    argv = [sys.executable, "-u", "-m", "http.server", "{port}", "--bind", "{host}"]
    web = service(ctx, argv, ready=http("/"))
    ctx.setenv("WEB_URL", web.url)
    return {"name": "web", "url": web.url}

@pytest.mark.plan_step(needs=())
def broken():
    raise RuntimeError("no such luck")
"""
TESTS = """
import socket
import urllib.request
from urllib.parse import urlsplit

import psycopg
import redis

def own_address(url):
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), 10) as connection:
        return connection.getsockname()[0]

@pytest.mark.plan("redis_url", "postgres", "web")
@pytest.mark.parametrize("number", range(8))
def test_servers(plan, redis_url, postgres, number):
    with redis.Redis.from_url(redis_url, socket_timeout=10) as client:
        client.incr("count")
    with psycopg.connect(postgres, connect_timeout=10) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    note("from", own_address(redis_url))
    with plan.state.lock("sum"):
        plan.state["sum"] = plan.state.get("sum", 0) + 1
    if plan.state["sum"] == 8:
        note("sum", 8)

@pytest.mark.parametrize("number", range(4))
def test_log(web, number):
    assert os.environ["WEB_URL"] == web["url"]
    urllib.request.urlopen(f"{web['url']}/no-{number}", timeout=10)

@pytest.mark.parametrize("number", range(4))
def test_blocked(broken, number):
    note("never")
"""
HANGING = """
import time

@pytest.mark.parametrize("number", range(6))
def test_it(web, plan, number):
    if number == 0:
        with plan.state.lock("held by the first"):
            note("hangs", os.environ["PYTEST_XDIST_WORKER"])
            time.sleep(600)
    if number > 1:
        with plan.state.lock("held by the first"):
            note("got the lock")
"""
WEB = """
import sys
from pytest_plan.steps import http, service

def stop(value):
    note("cleaned")

@pytest.mark.plan_step(cleanup=stop)
def web(ctx):
    argv = [sys.executable, "-u", "-m", "http.server", "{port}", "--bind", "{host}"]
    return service(ctx, argv, ready=http("/")).url
"""


@pytest.fixture
def fleet(machines: Machines, tmp_path: Path) -> Iterator[Fleet]:
    """An empty project; in the end, nothing that it has started is left on any machine."""
    fleet = Fleet(machines, tmp_path)
    yield fleet
    wait_until(fleet.is_idle)


def test_workers_on_other_machines_use_one_environment(fleet: Fleet) -> None:
    """They get values, State, variables, verdicts and logs, and reach what the steps started."""
    fleet.write(STEPS, TESTS)
    with fleet.start(
        "-W", "error", f"--plan-host={CONTROLLER}", "--plan-continue-on-error"
    ) as live:
        result = live.end()
    assert outcomes(result) == {"passed": 8, "failed": 4, "errors": 1, "blocked": 4}
    assert sorted(set(fleet.notes("from"))) == sorted(HOSTS.values())
    assert fleet.notes("sum") == ["8"]
    assert fleet.notes("never") == []
    text = result.stdout.str()
    for number in range(4):
        assert f'"GET /no-{number} HTTP/1.1" 404' in text
    assert "log of plan step 'web' during this test" in text
    assert "4 tests blocked: plan step 'broken' failed: RuntimeError: no such luck" in text
    ended = [line.split()[1] for line in plan_lines(result) if " cleanup ok " in line]
    assert sorted(ended) == ["postgres", "redis_url", "web"]


def test_a_loopback_address_is_one_warning_that_names_the_step_and_the_cure(fleet: Fleet) -> None:
    """It is given without `--plan-host`, and for an address that the step itself contains."""
    fleet.write(
        """
        @pytest.mark.plan_step(needs=())
        def address(ctx):
            return [{"url": f"http://{ctx.host}:80"}]

        @pytest.mark.plan_step(needs=())
        def variable(ctx):
            ctx.setenv("HERE", "localhost:80")

        @pytest.mark.plan_step(needs=())
        def other():
            return "http://127.0.0.1.example.org/::1x"
        """,
        """
        @pytest.mark.parametrize("number", range(6))
        def test_it(address, variable, other, number): pass
        """,
    )
    with fleet.start() as live:
        plain = live.end()
    with fleet.start(f"--plan-host={CONTROLLER}") as live:
        given = live.end()
    assert plain.ret == given.ret == 0
    text = plain.stdout.str()
    assert text.count("which is another machine for worker") == 2
    said = "which is another machine for worker 'gw*' on '*': let the step use ctx.host"
    plain.stdout.fnmatch_lines_random(
        [
            f"*PytestWarning: the value of step 'address' contains '127.0.0.1', {said}, as the "
            "ready-made steps do, and run pytest with --plan-host and an address of this machine*",
            f"*the environment variable 'HERE' of step 'variable' contains 'localhost', {said}*",
        ]
    )
    assert given.stdout.str().count("which is another machine for worker") == 1
    given.stdout.fnmatch_lines([f"*of step 'variable' *{said}, which is '{CONTROLLER}'"])


def test_a_worker_behind_a_proxy_ends_at_the_limit(fleet: Fleet) -> None:
    """`--px` starts it through another machine; its test is reported with its stack."""
    fleet.write(WEB, HANGING)
    proxy = fleet.tx("one").replace("ssh=", "id=px//ssh=")
    tx = [f"popen//via=px//chdir={fleet.copies['one'].path}"]
    with fleet.start("--px", proxy, f"--plan-host={CONTROLLER}", "--plan-limit=8s", tx=tx) as live:
        result = live.end()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert fleet.notes("hangs") == ["gw0"]
    result.stdout.fnmatch_lines(["*time.sleep(600)*"])
    assert fleet.copies["controller"].called("cleaned") == 1


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda live: live.interrupt(group=True), 2),
        (lambda live: live.interrupt(group=False), 2),
        (Live.kill, -signal.SIGKILL),
    ],
    ids=["Ctrl-C", "SIGINT", "SIGKILL"],
)
def test_nothing_is_left_on_any_machine(
    fleet: Fleet, end: Callable[[Live], None], status: int
) -> None:
    """After Ctrl-C and after pytest was killed, the tests end, and the steps are cleaned up."""
    fleet.write(WEB, HANGING)
    with fleet.start(f"--plan-host={CONTROLLER}") as live:
        wait_until(lambda: fleet.notes("hangs"))
        end(live)
        wait_until(lambda: not live.is_running())
        wait_until(fleet.is_idle)
        result = live.end()
    assert result.ret == status
    assert fleet.copies["controller"].called("cleaned") == 1


def test_a_machine_that_disappears_fails_its_test_and_frees_its_lock(fleet: Fleet) -> None:
    """Another worker takes over its tests, and a line says that it could not be replaced."""
    fleet.write(WEB, HANGING)
    with fleet.start(f"--plan-host={CONTROLLER}") as live:
        (worker,) = wait_until(lambda: fleet.notes("hangs"))
        host = dict(zip(("gw0", "gw1"), HOSTS, strict=True))[worker]
        fleet.machines.cut(host)
        try:
            result = live.end()
        finally:
            fleet.machines.join(host)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert fleet.notes("got") == ["the lock"] * 4
    assert outcomes(result) == {"passed": 5, "failed": 1}
    lost = f"plan: worker '{worker}' is lost, and there is no way to start another one on *"
    result.stdout.fnmatch_lines([f"{lost} (HostNotFound: {host})"])
    crashed = f"worker '{worker}' crashed while running 'test_it.py::test_it[0]'"
    assert crashed in result.stdout.str()
    assert fleet.copies["controller"].called("cleaned") == 1
