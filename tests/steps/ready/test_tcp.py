"""The condition `tcp`."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from pytest_plan import PlanDefinitionError
from pytest_plan.steps import tcp
from tests.steps.ready.targets import Fixed, answer


def test_a_port_that_accepts_connections_is_ready() -> None:
    """The port is the first one, one with a name, or a number."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert answer(tcp(), Fixed({"port": port, "other": 1})) is None
        assert answer(tcp("admin"), Fixed({"port": 1, "admin": port})) is None
        assert answer(tcp(port), Fixed()) is None


def test_a_port_that_refuses_is_the_answer() -> None:
    """The answer has host, port and error."""
    assert answer(tcp(1), Fixed()) == "tcp 127.0.0.1:1: Connection refused"


def test_an_unknown_name_is_an_error_that_lists_the_names() -> None:
    """It is raised at once, because waiting would not help."""
    with pytest.raises(PlanDefinitionError, match="no port named 'adm'; its ports: 'admin'"):
        answer(tcp("adm"), Fixed({"admin": 1}))


@pytest.mark.parametrize("junk", [0, 65536, -1, True, 1.5, []])
def test_what_is_no_port_is_refused(junk: Any) -> None:
    """PlanDefinitionError says what it must be."""
    with pytest.raises(PlanDefinitionError, match="is not a port"):
        tcp(junk)
