"""The condition that an HTTP server answers with a good status."""

from __future__ import annotations

import ssl
from collections.abc import Collection
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import NamedTuple
from urllib.parse import urlsplit

from pytest_plan.engine.model.durations import Duration, parse_duration
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.processes.addresses import netloc
from pytest_plan.engine.shared.programs.readiness import Condition, NotReadyError, Target
from pytest_plan.steps.ready.tcp import local_port, said


def http(
    url_or_path: str,
    status: int | Collection[int] = range(200, 400),
    *,
    timeout: Duration = "5s",
) -> Condition:
    """Return the condition that a GET request is answered with a good status.

    Redirects are not followed, and a certificate is not checked.

    Args:
        url_or_path: a URL of `http://` or `https://`, or a path such as `/health` on the first port
            of the server.
        status: the good status, or a collection of good ones.
        timeout: the maximum duration of one try.

    Raises:
        PlanDefinitionError: an argument is invalid.
    """
    if not _is_usable(url_or_path):
        raise PlanDefinitionError(
            f"http: {url_or_path!r} is neither a path that begins with '/' "
            "nor a URL that begins with 'http://' or 'https://'"
        )
    good = {status} if isinstance(status, int) else status
    if not _are_statuses(good):
        raise PlanDefinitionError(
            f"http: {status!r} is not a status; use a number from 100 to 599, or several"
        )
    return Http(url_or_path, good, parse_duration(timeout, "http: timeout", zero=False))


def _are_statuses(good: object) -> bool:
    if not isinstance(good, Collection) or not good:
        return False
    return all(isinstance(one, int) and 100 <= one < 600 for one in good)


def _is_usable(url_or_path: object) -> bool:
    if not isinstance(url_or_path, str):
        return False
    if url_or_path.startswith("/"):
        return True
    try:
        parts = urlsplit(url_or_path)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class _Request(NamedTuple):
    """Where a request goes."""

    scheme: str
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{netloc(self.host, self.port)}{self.path}"


class Http(Condition):
    """The condition that `http` returns.

    Args:
        url_or_path: where the request goes.
        good: the good statuses.
        timeout: the maximum duration of one try, in seconds.
    """

    def __init__(self, url_or_path: str, good: Collection[int], timeout: float) -> None:
        self.made = Http, (url_or_path, sorted(good), timeout)
        self._url_or_path = url_or_path
        self._good = good
        self._timeout = timeout

    def check(self, target: Target, timeout: float) -> None:
        """Make a request; see `Condition.check`."""
        request = self._request(target)
        kind = _secure if request.scheme == "https" else HTTPConnection
        connection = kind(request.host, request.port, timeout=min(self._timeout, timeout))
        try:
            connection.request("GET", request.path, headers={"Connection": "close"})
            status = connection.getresponse().status
        except (OSError, HTTPException) as error:
            raise NotReadyError(f"http {request}: {said(error)}") from None
        finally:
            connection.close()
        if status not in self._good:
            raise NotReadyError(f"http {request}: HTTP {status}")

    def local_ports(self, target: Target) -> set[int]:
        """Return the port of the request, if it goes to this machine."""
        request = self._request(target)
        return local_port(target, request.host, request.port)

    def _request(self, target: Target) -> _Request:
        if self._url_or_path.startswith("/"):
            return _Request(target.scheme, *target.address(), self._url_or_path)
        parts = urlsplit(self._url_or_path)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        query = f"?{parts.query}" if parts.query else ""
        return _Request(parts.scheme, parts.hostname or "", port, (parts.path or "/") + query)


def _secure(host: str, port: int, *, timeout: float) -> HTTPSConnection:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return HTTPSConnection(host, port, timeout=timeout, context=context)
