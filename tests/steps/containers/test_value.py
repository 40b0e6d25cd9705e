"""What a step gets from a container, by what the engine says about it."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_plan.steps.containers.value import value_of


def attrs(*addresses: str) -> dict[str, Any]:
    """Return a container that publishes its port 80 on these addresses."""
    places = [{"HostIp": address, "HostPort": "8080"} for address in addresses]
    return {"Id": "id", "NetworkSettings": {"Ports": {"80/tcp": places, "81/tcp": None}}}


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.5", ""])
def test_its_host_is_the_address_of_the_plan(address: str) -> None:
    """All addresses are that one, too."""
    value = value_of("10.0.0.5", attrs(address))
    assert (value.host, value.url) == ("10.0.0.5", "http://10.0.0.5:8080")


def test_a_port_that_a_compose_file_publishes_on_loopback_is_there() -> None:
    """The value does not say that others can reach it."""
    value = value_of("10.0.0.5", attrs("127.0.0.1"))
    assert (value.host, value.url) == ("127.0.0.1", "http://127.0.0.1:8080")
    assert value_of("127.0.0.1", attrs("127.0.0.1")).host == "127.0.0.1"


def test_an_address_of_ipv6_stands_in_brackets_in_its_url() -> None:
    """As in each URL."""
    assert value_of("fd00::5", attrs("fd00::5")).url == "http://[fd00::5]:8080"
