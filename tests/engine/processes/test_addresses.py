"""Addresses under which others reach what steps start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.processes.addresses import (
    addresses_at,
    check_host,
    check_name,
    is_loopback,
    loopback_in,
    netloc,
    network,
)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.0.0.5", "::1", "fe80::1", "build-7", "build_7.example.org", "7up"]
)
def test_addresses_and_names_are_accepted(host: str) -> None:
    """They are returned as they are, without the blanks around them."""
    assert check_host(f" {host} ", "--plan-host") == host


@pytest.mark.parametrize("value", ["", "  ", None])
def test_a_missing_address_is_refused(value: object) -> None:
    """The message says where it is missing, and what it must be."""
    with pytest.raises(PlanDefinitionError) as refused:
        check_host(value, "plan_host in pytest.ini")
    assert str(refused.value) == (
        "plan_host in pytest.ini: the address of this machine is missing; use an IP address or a "
        "host name of this machine, such as 10.0.0.5, without a port"
    )


@pytest.mark.parametrize(
    "value",
    ["10.0.0", "10.0.0.5:80", "10.0.0.256", "http://host", "a host", "-a", "a..b", "[::1]",
     "a" * 64, "10.0.0.5/24", "user@host", "12", 5, True],
)  # fmt: skip
def test_what_is_no_address_is_refused(value: object) -> None:
    """The message shows the value."""
    with pytest.raises(PlanDefinitionError) as refused:
        check_host(value, "--plan-host")
    assert f"--plan-host: {value!r} is not the address of a machine; use an IP" in str(
        refused.value
    )


@pytest.mark.parametrize("value", ["0.0.0.0", "::"])
def test_the_address_of_all_interfaces_is_refused(value: str) -> None:
    """A server can listen on it, but nobody can connect to it from elsewhere."""
    with pytest.raises(PlanDefinitionError, match="means all addresses, to which nobody can conn"):
        check_host(value, "--plan-host")


def test_loopback_is_told_apart() -> None:
    """Only processes of this machine reach it."""
    assert all(map(is_loopback, ["127.0.0.1", "127.1.2.3", "::1", "localhost"]))
    assert not any(map(is_loopback, ["10.0.0.5", "fe80::1", "build-7"]))


def test_an_address_of_ipv6_stands_in_brackets_before_a_port() -> None:
    """As in a URL."""
    assert netloc("10.0.0.5", 80) == "10.0.0.5:80"
    assert netloc("fe80::1", 80) == "[fe80::1]:80"


def test_the_addresses_of_a_host_are_those_of_sockets() -> None:
    """One of IPv4 counts in its form for IPv6 as well, and a name that is unknown has none."""
    four = socket.inet_aton("10.0.0.5")
    assert set(addresses_at("10.0.0.5")) == {four, bytes(10) + b"\xff\xff" + four}
    assert {socket.inet_aton("127.0.0.1"), socket.inet_aton("127.0.0.9")} <= set(
        addresses_at("127.0.0.9")
    )
    assert not addresses_at("name.invalid")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("http://127.0.0.1:80/", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("amqp://a:b@LocalHost/", "LocalHost"),
        ("host=localhost port=1", "localhost"),
        ("tcp://[::1]:80", "::1"),
        ("at ::1.", "::1"),
    ],
)
def test_a_loopback_address_is_found_in_a_text(text: str, found: str) -> None:
    """In a URL, and as a word."""
    assert loopback_in(text) == found


@pytest.mark.parametrize(
    "text",
    ["10.0.0.5", "127.0.0.1.example.org", "2127.0.0.1", "localhost.example.org", "my-localhost",
     "localhost_2", "fe80::1", "test_it.py::1", "::1a", "::1:2", ""],
)  # fmt: skip
def test_other_texts_have_none(text: str) -> None:
    """They only look like one."""
    assert loopback_in(text) is None


def test_processes_with_one_loopback_interface_have_the_same_network() -> None:
    """A child has, unless it is in another network namespace."""
    code = "from pytest_plan.engine.processes.addresses import network; print(network(), end='')"
    words = [sys.executable, "-c", code]
    assert subprocess.check_output(words, text=True) == network()
    if sys.platform == "linux" and os.geteuid() == 0:
        unshared = subprocess.run(
            ["unshare", "--net", *words], check=False, capture_output=True, text=True
        )
        assert unshared.returncode != 0 or unshared.stdout != network()


def test_a_name_that_only_this_machine_can_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Debian, the machine's own name is often 127.0.1.1. Addresses are not looked up."""
    known = {"build-7": "127.0.1.1", "build-8": "10.0.0.8"}
    find = "pytest_plan.engine.processes.addresses.first_address"
    monkeypatch.setattr(find, lambda name: (socket.AF_INET, known[name]))
    for host in ("build-8", "10.0.0.5", "127.0.0.2", "localhost"):
        check_name(host, "--plan-host")
    with pytest.raises(PlanDefinitionError) as refused:
        check_name("build-7", "--plan-host")
    assert str(refused.value) == (
        "--plan-host: on this machine, 'build-7' is 127.0.1.1, which no other machine can reach; "
        "use its IP address"
    )
