"""Servers that are there already: the keyword `attach`."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_plan import Context, PlanDefinitionError
from pytest_plan.steps import Service, healthy, http, log_line, service, tcp
from tests.steps.running import LONGEST, SERVE, cause_of, run

NEVER = ["/no/such/program", "{port}"]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a server that no step has started; it answers 503 to the first request."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = int(probe.getsockname()[1])
    server = subprocess.Popen([*SERVE, str(number)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + LONGEST
    while True:
        try:
            socket.create_connection(("127.0.0.1", number)).close()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    yield number
    server.kill()
    server.wait()


def test_the_server_is_used_and_left_alone(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started, and the log says so."""
    monkeypatch.setenv("WEB_URL", f"http://127.0.0.1:{port}")

    def exec(ctx: Context) -> tuple[Service, str]:
        found = service(ctx, NEVER, ready=http("/"), attach="WEB_URL")
        return found, (ctx.artifacts / "log.txt").read_text()

    found, log = run(exec)
    url = f"http://127.0.0.1:{port}"
    assert found == Service("127.0.0.1", port, {"port": port}, url, None)
    assert log == (f"WEB_URL is set: the step uses {url}, starts nothing, and cleans nothing up\n")
    socket.create_connection(("127.0.0.1", port)).close()


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_variable_that_is_not_set_changes_nothing(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does an empty one, as a CI system sets it for a secret that is missing."""
    monkeypatch.delenv("WEB_URL", raising=False)
    if value is not None:
        monkeypatch.setenv("WEB_URL", value)
    found = run(lambda ctx: service(ctx, [*SERVE, "{port}"], attach="WEB_URL"))
    assert found.pid is not None


def test_a_server_that_does_not_answer_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable and not the password, and says what to do."""
    monkeypatch.setenv("WEB_URL", "http://shop:topsecret@127.0.0.1:1/")
    begun = time.monotonic()
    error = cause_of(lambda ctx: service(ctx, NEVER, attach="WEB_URL", timeout="60s"))
    assert time.monotonic() - begun < LONGEST
    assert str(error) == (
        "the server that WEB_URL names does not answer: tcp 127.0.0.1:1: Connection refused; "
        "start it, or unset WEB_URL so that the step starts its own"
    )


def test_its_readiness_is_awaited(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message of a timeout names the variable, too."""
    monkeypatch.setenv("WEB_URL", f"http://127.0.0.1:{port}")
    ready = http("/", status=599)
    error = cause_of(lambda ctx: service(ctx, NEVER, ready=ready, attach="WEB_URL", timeout="0.3s"))
    assert str(error) == (
        "the server that WEB_URL names is not ready after 0.3s: "
        f"http http://127.0.0.1:{port}/: HTTP 200"
    )


def test_what_concerns_a_start_is_met(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that was there before has written its lines before; a function gets the service."""
    monkeypatch.setenv("WEB_URL", f"http://127.0.0.1:{port}")
    seen: list[Service] = []

    def ready(found: Service) -> bool:
        seen.append(found)
        return True

    joined = log_line("never written") & healthy() & tcp() & ready
    found = run(lambda ctx: service(ctx, NEVER, ready=joined, attach="WEB_URL"))
    assert seen == [found]


def test_without_a_condition_the_first_port_counts(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable names only one."""
    monkeypatch.setenv("WEB_URL", f"http://127.0.0.1:{port}")
    argv = ["/no/such/program", "{port:web}", "{port:admin}"]
    found = run(lambda ctx: service(ctx, argv, attach="WEB_URL"))
    assert found.ports == {"web": port}


def masked(url: str, port: int, monkeypatch: pytest.MonkeyPatch, *lines: str) -> list[str]:
    """Return what a log shows of lines that a step writes after it has attached to a server."""
    monkeypatch.setenv("BASE_URL", url.replace("PORT", str(port)))

    def exec(ctx: Context) -> str:
        service(ctx, NEVER, attach="BASE_URL")
        for line in lines:
            ctx.log(line)
        return Path(ctx.artifacts / "log.txt").read_text()

    return str(run(exec)).replace(str(port), "PORT").splitlines()


def test_a_short_password_is_masked_in_urls_alone(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On its own it may be an ordinary word."""
    url = "postgresql://shop:shop@127.0.0.1:PORT/shop"
    lines = masked(url, port, monkeypatch, url, "the shop is open", "shop:shop@there")
    assert lines[0].startswith(
        "BASE_URL is set: the step uses postgresql://shop:***@127.0.0.1:PORT/shop,"
    )
    assert lines[1:] == [
        "postgresql://shop:***@127.0.0.1:PORT/shop", "the shop is open", "shop:***@there"
    ]  # fmt: skip


def test_a_long_password_is_masked_everywhere(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands in the URL, and decoded."""
    url = "redis://:long%2Fenough@127.0.0.1:PORT/0"
    lines = masked(url, port, monkeypatch, url, "long/enough", "long%2Fenough")
    assert lines[1:] == ["redis://:***@127.0.0.1:PORT/0", "***", "***"]


@pytest.mark.parametrize("word", ["localhost", "database1", "operator"])
def test_a_long_password_that_is_another_word_is_masked_in_urls_alone(
    word: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host, a user and a database are no secrets."""
    url = f"http://operator:{word}@localhost:PORT/database1"
    lines = masked(url, port, monkeypatch, url, word)
    assert lines[1:] == ["http://operator:***@localhost:PORT/database1", word]


def test_a_long_password_that_is_the_name_of_a_step_is_masked_in_urls_alone(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports would be hard to read otherwise."""
    monkeypatch.setenv("BASE_URL", f"http://me:postgresql@127.0.0.1:{port}")

    def exec(ctx: Context) -> str:
        service(ctx, NEVER, attach="BASE_URL")
        ctx.log("postgresql")
        return Path(ctx.artifacts / "log.txt").read_text()

    from pytest_plan.engine.definition.step import GenericStep
    from pytest_plan.engine.plan import Plan

    plan = Plan()
    plan.add_step(GenericStep(exec=exec), name="postgresql")
    with plan.provisioned() as state:
        assert state["postgresql"].splitlines()[1:] == ["postgresql"]


@pytest.mark.parametrize("value", ["localhost:80", "http://", "what://host", "http://h:x/", "5432"])
def test_what_is_no_url_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable and shows its value."""
    monkeypatch.setenv("WEB_URL", value)
    error = cause_of(lambda ctx: service(ctx, NEVER, attach="WEB_URL"))
    assert isinstance(error, PlanDefinitionError)
    assert f"WEB_URL is {value!r}; it must be the URL of a server" in str(error)


def test_a_password_in_what_is_no_url_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if it has characters that would have to be encoded."""
    monkeypatch.setenv("WEB_URL", "http://me:p/ss:w@rd@host:x/")
    error = cause_of(lambda ctx: service(ctx, NEVER, attach="WEB_URL"))
    assert "WEB_URL is 'http://***@host:x/'" in str(error)


@pytest.mark.parametrize("junk", ["", "A B", "$WEB_URL", "http://localhost", 5])
def test_the_keyword_is_the_name_of_a_variable(junk: Any) -> None:
    """The message has an example."""
    error = cause_of(lambda ctx: service(ctx, NEVER, attach=junk))
    assert isinstance(error, PlanDefinitionError)
    assert "is not the name of an environment variable, such as 'DATABASE_URL'" in str(error)
