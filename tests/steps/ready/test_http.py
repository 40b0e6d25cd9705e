"""The condition `http`."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from pytest_plan import PlanDefinitionError
from pytest_plan.steps import http
from tests.steps.ready.targets import Fixed, answer


class Handler(BaseHTTPRequestHandler):
    """Answers with the status that is the last part of the path."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(int(self.path.rpartition("/")[2].partition("?")[0]))
        self.send_header("Location", "http://127.0.0.1:1/")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of an HTTP server."""
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("path", ["/200", "/204", "/302", "/a/b/200?c=d"])
def test_a_good_status_is_ready(port: int, path: str) -> None:
    """By default these are 200 to 399; a redirect is not followed."""
    assert answer(http(path), Fixed({"port": port})) is None
    assert answer(http(f"http://127.0.0.1:{port}{path}"), Fixed()) is None


@pytest.mark.parametrize("path", ["/503", "/404"])
def test_another_status_is_the_answer(port: int, path: str) -> None:
    """The answer has the URL and the status."""
    target = Fixed({"port": port})
    assert answer(http(path), target) == f"http http://127.0.0.1:{port}{path}: HTTP {path[1:]}"


def test_the_good_statuses_can_be_chosen(port: int) -> None:
    """They are a number or a collection."""
    target = Fixed({"port": port})
    assert answer(http("/401", status=401), target) is None
    assert answer(http("/401", status={200, 401}), target) is None
    assert "HTTP 200" in str(answer(http("/200", status=401), target))


def test_a_server_that_is_not_there_is_the_answer() -> None:
    """The answer has the error."""
    found = answer(http("http://127.0.0.1:1"), Fixed())
    assert found == "http http://127.0.0.1:1/: Connection refused"


def test_a_server_that_does_not_answer_takes_the_time_of_one_try(silent: int) -> None:
    """The try ends after its own timeout, or after the time that is left."""
    target, late = Fixed({"port": silent}), f"http http://127.0.0.1:{silent}/: timed out"
    assert answer(http("/", timeout=0.1), target) == late
    assert answer(http("/"), target, timeout=0.1) == late


def test_what_is_no_http_is_the_answer() -> None:
    """A server of another protocol is not ready."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            connection.sendall(b"220 mail.example\r\n")
            connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        assert "BadStatusLine" in str(answer(http("/"), Fixed({"port": server.getsockname()[1]})))
        thread.join()


def test_only_its_own_port_of_this_machine_is_local() -> None:
    """That is the port on which no stranger may answer."""
    assert http("/").local_ports(Fixed({"port": 80})) == {80}
    assert http("http://localhost:81/").local_ports(Fixed()) == {81}
    assert http("https://[::1]/").local_ports(Fixed()) == {443}
    assert http("http://example.org/").local_ports(Fixed()) == set()


@pytest.mark.parametrize(
    "junk", ["", "health", "ftp://host/", "http://", "http://host:port/", "http://host:0/", None, 1]
)
def test_what_is_neither_url_nor_path_is_refused(junk: Any) -> None:
    """PlanDefinitionError says what it must be."""
    with pytest.raises(PlanDefinitionError, match="neither a path that begins with '/'"):
        http(junk)


@pytest.mark.parametrize("junk", [0, 700, [], [200, "x"], "200", None, 2.5])
def test_what_is_no_status_is_refused(junk: Any) -> None:
    """PlanDefinitionError says what it must be."""
    with pytest.raises(PlanDefinitionError, match="is not a status; use a number from 100 to 599"):
        http("/", status=junk)


@pytest.mark.parametrize("junk", ["soon", 0, -1])
def test_the_timeout_of_a_try_is_a_duration(junk: Any) -> None:
    """PlanDefinitionError names the argument."""
    with pytest.raises(PlanDefinitionError, match="http: timeout"):
        http("/", timeout=junk)


def test_a_path_needs_a_port() -> None:
    """The message says what to do."""
    with pytest.raises(PlanDefinitionError, match=r"needs a port.*use \{port\} in the arguments"):
        answer(http("/"), Fixed())
