"""The base class of the steps that start a server."""

from __future__ import annotations

import abc
import os
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import SplitResult, urlsplit

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import Step
from pytest_plan.engine.model.durations import Duration
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.processes.addresses import is_loopback
from pytest_plan.steps.attach import Attached, attach, attached
from pytest_plan.steps.ready.reply import Reply
from pytest_plan.steps.servers.attributes import VARIABLE, Attribute, check_attributes

_PASSWORD_BYTES = 12
_OPEN = "everybody who can reach {host} (--plan-host) {may} use it"


class Server(Step, abc.ABC):
    """A step that starts a server. Its value is the address of the server.

    Subclasses list the attributes that users may set. A user sets them in a class body, or passes
    them by name.

    Raises:
        PlanDefinitionError: an attribute is unknown, or its value is invalid.
    """

    __module__ = "pytest_plan.steps"

    timeout: Duration = "60s"
    attach: str | None = None

    _title: ClassVar[str]
    _schemes: ClassVar[Collection[str]]
    _encrypted: ClassVar[Collection[str]] = ()  # the schemes with TLS
    _attributes: ClassVar[Mapping[str, Attribute]]
    _reserved: ClassVar[Collection[str]] = ()

    def __init__(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            setattr(self, name, value)
        check_attributes(self, {**self._attributes, "attach": VARIABLE}, self._reserved)

    def exec(self, ctx: Context) -> str:
        """Start the server, or use the one that `attach` names. Return its address."""
        server = self._attached()
        return self._start(ctx) if server is None else self._use(ctx, server)

    def alive(self, value: str) -> None:
        """Raise an error if the server does not answer."""
        url = urlsplit(value)
        self._reply(url).check_at(url.hostname or "", url.port or 0)

    def _attached(self) -> Attached | None:
        """Return the server that `attach` names; None if there is none."""
        return attached(self.attach)

    def _use(self, ctx: Context, server: Attached) -> str:
        """Use a server that is there already; return its URL."""
        url = urlsplit(server.url)
        kind, _, _ = url.scheme.partition("+")
        if kind not in self._schemes:
            wanted = " or ".join(f"'{scheme}://'" for scheme in self._schemes)
            raise PlanDefinitionError(
                f"attach: {server.variable} begins with '{url.scheme}://'; "
                f"the URL of a {self._title} server begins with {wanted}"
            )
        # With TLS, only accepting connections is checked.
        condition = None if kind in self._encrypted else self._reply(url)
        attach(ctx, server, condition, None)
        return server.url

    @abc.abstractmethod
    def _start(self, ctx: Context) -> str:
        """Start the server; return the value of the step."""

    @abc.abstractmethod
    def _reply(self, url: SplitResult) -> Reply:
        """Return the condition that the server with this URL answers."""


def password_of(step: Server, ctx: Context, password: str | None) -> str:
    """Return the password of a server: the given one, or a random one for None.

    Raises:
        PlanDefinitionError: it is "", so that no password is needed, and the server would listen on
            an address that other machines can reach.
    """
    if password == "" and not is_loopback(ctx.host):
        risk = _OPEN.format(host=ctx.host, may="could")
        raise PlanDefinitionError(
            f"password of {type(step).__qualname__} is '': {risk}; remove it, and the step chooses "
            "a password"
        )
    return random_password() if password is None else password


def log_open_server(ctx: Context, title: str) -> None:
    """Say in the log of a step that its server has no password, if other machines can reach it."""
    if not is_loopback(ctx.host):
        ctx.log(f"{title} needs no password: {_OPEN.format(host=ctx.host, may='can')}")


def random_password() -> str:
    """Return a new password, which needs no quoting in a URL."""
    return secrets.token_urlsafe(_PASSWORD_BYTES)


def run_or_explain(
    ctx: Context,
    argv: Sequence[str | os.PathLike[str]],
    folder: Path,
    user: str | None,
    cause: str,
    *,
    input: str | None = None,
) -> None:
    """Run a program that creates the files of a server.

    Args:
        ctx: the `ctx` of the hook.
        argv: the program and its arguments.
        folder: the folder to run it in, to which it may write.
        user: the user to run it as; None means the current user.
        cause: a regular expression for lines that say why it has failed. If there is one, the
            program has failed even if its exit status is 0.
        input: the text for its standard input.

    Raises:
        RuntimeError: it has failed; the message has the first of these lines.
    """
    done = ctx.run(
        argv, user=user, input=input, cwd=folder, env={"TMPDIR": str(folder)}, check=False
    )
    said = [
        " ".join(line.split()) for line in (done.stdout + done.stderr).splitlines() if line.strip()
    ]
    causes = [line for line in said if re.search(cause, line)]
    if done.returncode or causes:
        name = os.path.basename(argv[0])
        why = causes[0] if causes else said[-1] if said else "it printed nothing"
        raise RuntimeError(f"{name!r} exited with status {done.returncode}: {why}")
