"""Addresses under which others reach what the steps of a run start."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.processes.identity import boot_id, host

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address
    from socket import AddressFamily

LOOPBACK = "127.0.0.1"
_LOOPBACK_NAMES = ("localhost", LOOPBACK, "::1")
_IN_TEXT = re.compile(
    r"(?<![\w.-])(?:127(?:\.\d{1,3}){3}|localhost)(?![\w-]|\.\w)|(?<![\w:.])::1(?![\w:]|\.\w)",
    re.IGNORECASE,
)
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"  # a part of a name
_CURE = "use an IP address or a host name of this machine, such as 10.0.0.5, without a port"
_LONGEST_NAME = 253
_MAPPED = bytes(10) + b"\xff\xff"  # what precedes an IPv4 address that a socket for IPv6 has


def check_host(value: object, what: str) -> str:
    """Return an address under which this machine can be reached, if it is one.

    Args:
        value: an IP address, or the name of a host.
        what: its name in the message.

    Raises:
        PlanDefinitionError: it is neither, or an address that only means "all addresses".
    """
    text = value.strip() if isinstance(value, str) else value
    if not text:
        raise PlanDefinitionError(f"{what}: the address of this machine is missing; {_CURE}")
    address = _address(text) if isinstance(text, str) else None
    if address is not None and address.is_unspecified:
        raise PlanDefinitionError(
            f"{what}: {text!r} means all addresses, to which nobody can connect; {_CURE}"
        )
    if not isinstance(text, str) or (address is None and not _is_name(text)):
        raise PlanDefinitionError(f"{what}: {value!r} is not the address of a machine; {_CURE}")
    return text


def check_name(host: str, what: str) -> None:
    """Check that others may reach this machine under a name.

    On many machines, their own name is a loopback address, although others find them under it.

    Args:
        host: an IP address or a name, as `check_host` has returned it.
        what: its name in the message.

    Raises:
        PlanDefinitionError: the name is unknown on this machine, or a loopback address.
    """
    if host in _LOOPBACK_NAMES or _address(host) is not None:
        return
    try:
        _, found = first_address(host)
    except OSError as error:
        raise PlanDefinitionError(
            f"{what}: this machine does not know {host!r} ({error.strerror}); {_CURE}"
        ) from None
    if is_loopback(found):
        raise PlanDefinitionError(
            f"{what}: on this machine, {host!r} is {found}, which no other machine can reach; use "
            "its IP address"
        )


def _address(text: str) -> IPv4Address | IPv6Address | None:
    import ipaddress  # most runs do not need it

    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_name(text: str) -> bool:
    labels = text.split(".")
    are_labels = all(re.fullmatch(_LABEL, label) for label in labels)
    return are_labels and len(text) <= _LONGEST_NAME and not labels[-1].isdigit()


def is_loopback(host: str) -> bool:
    """Return whether only processes of this machine can connect to a host."""
    if host in _LOOPBACK_NAMES:
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def netloc(host: str, port: int | str | None) -> str:
    """Return a host and a port as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def first_address(host: str) -> tuple[AddressFamily, str]:
    """Return the family and the first IP address of a host.

    Raises:
        OSError: the name is unknown.
    """
    import socket  # imported late because few runs look for addresses

    family, _, _, _, where = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    return family, str(where[0])


def addresses_at(host: str) -> Collection[bytes]:
    """Return the addresses of a host, as bytes; for a loopback address, those of IPv4 and IPv6.

    An unknown name has none.
    """
    import socket  # as above

    try:
        names = {host, *(_LOOPBACK_NAMES[1:] if is_loopback(host) else ())}
        found = [one for name in names for one in socket.getaddrinfo(name, None)]
    except OSError:
        return frozenset()
    packed = {socket.inet_pton(one[0], str(one[4][0]).partition("%")[0]) for one in found}
    return packed | {_MAPPED + one for one in packed if len(one) == 4}


def loopback_in(text: str) -> str | None:
    """Return the loopback address or name that a text contains, such as a URL, or None."""
    found = _IN_TEXT.search(text)
    return None if found is None else found[0]


def network() -> str:
    """Return a text that is the same for two processes if they share a loopback interface.

    The name of the host is not enough: containers and network namespaces can have the same one.
    """
    try:
        return f"{boot_id()} {os.readlink('/proc/self/ns/net')}"
    except OSError:  # no Linux, or /proc is not mounted
        return host()
