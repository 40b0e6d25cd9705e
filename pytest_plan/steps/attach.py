"""Existing servers, which a step uses in place of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from pytest_plan.engine.calls.context import Context, starter_of
from pytest_plan.engine.model.errors import PlanDefinitionError, PlanError
from pytest_plan.engine.model.secret import MASK, Masker
from pytest_plan.engine.processes.process import ProgramFiles, content, spawn
from pytest_plan.engine.shared.programs.placeholders import FIRST
from pytest_plan.engine.shared.programs.readiness import Condition, NotReadyError, Target
from pytest_plan.steps.ready.tcp import Tcp

_CONNECT = 5.0  # seconds within which the server must accept a connection
_EVERY = "5s"  # how often its readiness is checked while tests run
_LONG = 8  # the characters from which on a password is masked wherever it stands
_PORTS = {
    "amqp": 5672, "amqps": 5671, "http": 80, "https": 443, "mariadb": 3306, "mongodb": 27017,
    "mysql": 3306, "postgres": 5432, "postgresql": 5432, "redis": 6379, "rediss": 6379,
}  # fmt: skip


class Attached(Target):
    """A server that an environment variable names, and that the step has not started.

    Args:
        variable: the name of the variable.
        url: its value.

    Attributes:
        url: the URL, with the password.
        shown: the URL as it may be shown.
        port: its port.
    """

    is_ours = False

    def __init__(self, variable: str, url: str) -> None:
        parts = _parts(variable, url)
        self.name = f"the server that {variable} names"
        self.variable = variable
        self.url = url
        self.shown = _shown(parts)
        self.host = parts.hostname or ""
        self.port: int = _port(parts) or 0
        self.ports: Mapping[Any, int] = {FIRST: self.port}
        self.value: object = None
        self.scheme = "https" if parts.scheme == "https" else "http"
        self._parts = parts

    def run(self, argv: Sequence[str], timeout: float) -> tuple[int, str]:
        """Run a program on this machine; see `Target.run`."""
        with ProgramFiles(None) as (_, output, errors):
            process = spawn(argv, output=output, errors=errors)
            try:
                status = process.wait(timeout)
            except BaseException:
                process.kill_group()
                raise
            return status, content(output) + content(errors)

    def passwords(self) -> list[str]:
        """Return the password as it stands in the URL, and as it is; nothing if there is none."""
        password = self._parts.password
        return [] if not password else list(dict.fromkeys([password, unquote(password)]))

    def words(self) -> set[str]:
        """Return the words of the URL that are no secret."""
        parts = self._parts
        return {unquote(one) for one in (parts.username or "", self.host, parts.path.strip("/"))}

    def user(self) -> str:
        """Return the user as it stands in the URL."""
        return self._parts.username or ""


def attached(variable: str | None) -> Attached | None:
    """Return the server that an environment variable names; None if there is none.

    Args:
        variable: the name of the variable; None means that there is none. If the variable is empty
            it is not set.

    Raises:
        PlanDefinitionError: `variable` is no name, or its value is no URL with a host and a port.
            The message does not show a password.
    """
    if variable is None:
        return None
    if not _is_name(variable):
        raise PlanDefinitionError(
            f"attach: {variable!r} is not the name of an environment variable, "
            "such as 'DATABASE_URL'"
        )
    url = os.environ.get(variable, "").strip()
    return Attached(variable, url) if url else None


def attach(
    ctx: Context, server: Attached, condition: Condition | None, timeout: float | None
) -> None:
    """Wait until an existing server is ready, and watch it. Cleanup leaves it alone.

    Args:
        ctx: the `ctx` of the hook.
        server: the server.
        condition: the condition that it must meet; None means that it accepts connections.
            Conditions about its start, such as `log_line`, count as met.
        timeout: the maximum time until it meets the condition, in seconds; None means the time
            limit of the step.

    Raises:
        RuntimeError: the server does not accept connections; the message names the variable.
        TimeoutError: it did not meet the condition in time; the message has the last answer.
    """
    starter = starter_of(ctx)
    _hide_password(server, starter.masker, starter.step_names())
    accepts = Tcp(None, _CONNECT)
    try:
        accepts.check(server, _CONNECT)
    except NotReadyError as error:
        raise RuntimeError(
            f"{server.name} does not answer: {error}; "
            f"start it, or unset {server.variable} so that the step starts its own"
        ) from None
    wanted = condition or accepts
    try:
        starter.wait_until_ready(server, wanted, timeout, server.variable)
    except PlanError:
        raise
    except TimeoutError as error:
        raise TimeoutError(f"{server.name} is {error}") from None
    ctx.log(
        f"{server.variable} is set: the step uses {server.shown}, starts nothing, and cleans "
        "nothing up"
    )

    def is_ready() -> bool:
        try:
            wanted.check(server, _CONNECT)
        except NotReadyError as error:
            raise TimeoutError(f"not ready: {error}") from None
        return True

    is_ready.__name__ = is_ready.__qualname__ = server.variable  # its name in messages
    ctx.watch(is_ready, every=_EVERY)


def _is_name(variable: object) -> bool:
    return isinstance(variable, str) and re.fullmatch(r"[A-Za-z_]\w*", variable) is not None


def _hide_password(server: Attached, masker: Masker, steps: Collection[str]) -> None:
    """Mask the password in URLs, and on its own if it cannot be taken for an ordinary word."""
    for password in server.passwords():
        masker.learn_between(f"{server.user()}:", password, "@")
        if len(password) >= _LONG and password not in {*server.words(), *steps}:
            masker.learn_text([password])


def _parts(variable: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = _port(parts)
    except ValueError:
        parts, port = urlsplit(""), None
    if not parts.scheme or not parts.hostname or not port:
        raise PlanDefinitionError(
            f"attach: {variable} is {_without_user(url)!r}; it must be the URL of "
            "a server, with its host and port, such as 'http://localhost:8080', or empty"
        )
    return parts


def _port(parts: SplitResult) -> int | None:
    return parts.port or _PORTS.get(parts.scheme.partition("+")[0])


def _shown(parts: SplitResult) -> str:
    parts = parts._replace(query="", fragment="")  # they may contain a password
    if parts.password is None:
        return parts.geturl()
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or ''}:{MASK}@{place}").geturl()


def _without_user(url: str) -> str:
    """Return an invalid URL without the part that may contain a password."""
    head, _, rest = url.rpartition("@")
    scheme, found, _ = head.partition("://")
    return f"{scheme}{found}{MASK}@{rest}" if head else url
