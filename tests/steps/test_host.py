"""Everything that the ready-made steps start listens on the host of the plan."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from pytest_plan import Context, Plan, PlanDefinitionError, Step
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.results import StepError
from pytest_plan.steps import PostgreSQL, Redis, Service, http, service, tcp

HOST = "127.0.0.2"  # an address of this machine that is not the default, and not open to others
WEB = [sys.executable, "-m", "http.server", "{port}", "--bind", "{host}"]


def at(host: str, step: Step | Callable[[Context], Any], during: Callable[[Any], Any]) -> Any:
    """Run a step in a plan with a host; return what `during` returns for its value."""
    plan = Plan(host=host)
    plan.add_step(step if isinstance(step, Step) else GenericStep(exec=step), name="it")
    with plan.provisioned() as state:
        return during(state["it"])


def is_refused(port: int) -> bool:
    """Return whether nobody listens on a port of 127.0.0.1."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def test_a_service_listens_there_and_is_ready_there() -> None:
    """Its value says so, and a condition without a URL asks there, as that of `ctx.start` does."""

    def exec(ctx: Context) -> list[Any]:
        port = ctx.free_port()
        words = [word.format(port=port, host=ctx.host) for word in WEB]
        ctx.start(words, ready=tcp(port))
        return [ctx.host, port, service(ctx, WEB, ready=http("/"))]

    def look(found: list[Any]) -> None:
        host, port, web = found
        assert isinstance(web, Service)
        assert (host, web.host, web.url) == (HOST, HOST, f"http://{HOST}:{web.port}")
        assert (
            urlopen(f"http://{HOST}:{web.port}").status
            == urlopen(f"http://{HOST}:{port}").status
            == 200
        )
        assert is_refused(port)
        assert is_refused(web.port or 0)

    at(HOST, exec, look)


def test_an_address_of_ipv6_is_one_too() -> None:
    """The URL has it in brackets."""
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")

    def look(web: Service) -> None:
        assert web.url == f"http://[::1]:{web.port}"
        assert urlopen(web.url or "").status == 200

    at("::1", lambda ctx: service(ctx, WEB, ready=http("/")), look)


def test_servers_listen_there() -> None:
    """Clients of PostgreSQL and Redis connect to the URLs."""
    psycopg = pytest.importorskip("psycopg")
    redis = pytest.importorskip("redis")

    def select(url: str) -> None:
        assert urlsplit(url).hostname == HOST
        assert is_refused(urlsplit(url).port or 0)
        with psycopg.connect(url) as connection:
            assert connection.execute("select 1").fetchone() == (1,)

    def ping(url: str) -> None:
        assert urlsplit(url).hostname == HOST
        assert is_refused(urlsplit(url).port or 0)
        with redis.Redis.from_url(url) as client:
            assert client.ping()

    at(HOST, PostgreSQL(), select)
    at(HOST, Redis(), ping)


def test_an_address_of_another_machine_is_an_error_that_says_so() -> None:
    """It names the option."""
    with pytest.raises(StepError) as failed:
        at("192.0.2.1", lambda ctx: ctx.free_port(), print)
    assert "no port is free on 192.0.2.1, the address of the plan (--plan-host): Cannot" in str(
        failed.value.__cause__
    )


@pytest.mark.parametrize("kind", [PostgreSQL, Redis])
def test_a_server_that_others_can_reach_must_have_a_password(kind: Callable[..., Step]) -> None:
    """An empty password is refused before anything is started."""
    with pytest.raises(StepError) as failed:
        at("192.0.2.1", kind(password=""), print)
    cause = failed.value.__cause__
    assert isinstance(cause, PlanDefinitionError)
    name = getattr(kind, "__name__", "")
    assert str(cause) == (
        f"password of {name} is '': everybody who can reach 192.0.2.1 (--plan-host) could "
        "use it; remove it, and the step chooses a password"
    )


def test_a_plan_checks_its_host() -> None:
    """As `--plan-host` does."""
    with pytest.raises(PlanDefinitionError, match=r"host: '10\.0\.0' is not the address of a"):
        Plan(host="10.0.0")
