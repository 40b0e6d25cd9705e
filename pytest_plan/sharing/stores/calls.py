"""Calls to a server, which are checked, and repeated if the connection breaks."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import TypeVar

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import StateError, describe
from pytest_plan.engine.processes.copies import getpid
from pytest_plan.sharing.errors import ShareError, ShareSetupError, SilentError
from pytest_plan.sharing.model import Joining
from pytest_plan.sharing.protocol import LARGEST

T = TypeVar("T")
LONGEST_NAME = 200  # bytes of the name of an environment
LONGEST_KEY = 1024  # bytes of a key; PostgreSQL notifies with at most 8,000
_SHORTEST_LEASE = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_LISTENER_PAUSE = 0.2


class Calls:
    """Repeats calls to one server.

    Args:
        server: the server, without a password, for messages.
        patience: the seconds for which a call is repeated while the server does not answer.
        secrets_: texts that messages must not contain, such as the password.
        is_transient: returns whether a call can succeed later, so that it is repeated.
    """

    def __init__(
        self,
        server: str,
        patience: float,
        secrets_: Iterable[str],
        is_transient: Callable[[Exception], bool],
    ) -> None:
        self.server = server
        self.patience = patience
        self._secrets = tuple(secret for secret in secrets_ if secret)
        self._is_transient = is_transient
        self._process = getpid()

    def repeat(
        self, attempt: Callable[[], T], is_transient: Callable[[Exception], bool] | None = None
    ) -> T:
        """Return the result of `attempt`, which is called again while the server is silent.

        Args:
            attempt: the call.
            is_transient: returns whether it can succeed later; None means the usual function.

        Raises:
            SilentError: the server has not answered for as long as the patience.
            ShareError: the server has refused the call, or this is a forked copy of the process.
        """
        if getpid() != self._process:
            raise ShareError(
                f"{self.server} cannot be used in a forked copy of the process, which shares the "
                "connection; use the plan in the original process"
            )
        may_succeed = is_transient or self._is_transient
        begun, pause = SystemClock.now(), _FIRST_PAUSE
        while True:
            try:
                return attempt()
            except Exception as error:
                if not may_succeed(error):
                    raise
                waited, cause = SystemClock.now() - begun, self.clean(describe(error))
            if waited + pause >= self.patience:
                # Its text may contain the password.
                raise SilentError(self.server, waited, cause) from None
            SystemClock.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def clean(self, text: str) -> str:
        """Return a text of the server or its client as one line without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        lines = (line.strip() for line in text.splitlines())
        return "; ".join(filter(None, lines)).rstrip(".")


class Silence:
    """The time since the connection of a listener broke, until there is another one.

    Args:
        calls: knows the server and its patience.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._since: float | None = None

    def end(self) -> None:
        """Note that there is a connection again."""
        self._since = None

    def bear(self, error: Exception, longest: float) -> None:
        """Wait a moment before another attempt to connect, for at most `longest` seconds.

        Raises:
            SilentError: the silence has lasted for as long as the patience.
        """
        now = SystemClock.now()
        self._since = now if self._since is None else self._since
        if now - self._since >= self._calls.patience:
            cause = self._calls.clean(str(error))
            raise SilentError(self._calls.server, now - self._since, cause) from None
        SystemClock.sleep(min(longest, _LISTENER_PAUSE))


def new_id() -> str:
    """Return a random id."""
    return secrets.token_hex(16)


def check_name(name: str) -> str:
    """Return the name of an environment.

    Raises:
        ShareSetupError: it is empty, too long, or has characters that stores do not allow.
    """
    is_good = name and name.isprintable() and not set(name) & set("{}") and _is_text(name)
    if not is_good or len(name.encode()) > LONGEST_NAME:
        raise ShareSetupError(
            f"{name!r} cannot be the name of a shared environment; use 1 to {LONGEST_NAME} "
            "printable characters without braces, such as --plan-environment build-7"
        )
    return name


def check_joining(joining: Joining) -> Joining:
    """Return a request to join.

    Raises:
        ShareSetupError: the lease is too short, or the number of runs is negative.
        ValueError: the id of the member has other characters than letters and digits.
    """
    if not joining.member.id.isalnum():
        raise ValueError(f"{joining.member.id!r} cannot be the id of a member")
    if not _SHORTEST_LEASE <= joining.lease < float("inf"):
        raise ShareSetupError(
            f"plan_share_lease is {joining.lease:g}s; use at least {_SHORTEST_LEASE:g}s"
        )
    if joining.runs < 0:
        raise ShareSetupError(f"--plan-share-runs is {joining.runs}; use 0 or more")
    return joining


def check_key(key: str) -> str:
    """Return a key, or the name of a lock.

    Raises:
        StateError: it is too long, or is not valid text.
    """
    if not _is_text(key) or "\0" in key:
        raise StateError(f"key {key!r} cannot be shared: it is not valid text; use another key")
    if len(key.encode()) > LONGEST_KEY:
        raise StateError(
            f"key {key[:40]!r}... has {len(key.encode())} bytes; a shared key has at most "
            f"{LONGEST_KEY}"
        )
    return key


def check_text(key: str, text: str) -> str:
    """Return a value as text.

    Raises:
        StateError: it is too large, or is not valid text.
    """
    if not _is_text(text) or "\0" in text:
        raise StateError(f"the value of {key!r} cannot be shared: it is not valid text")
    if len(text) > LARGEST or len(text.encode()) > LARGEST:
        size = len(text.encode()) / 1024 / 1024
        raise StateError(
            f"the value of {key!r} has {size:.1f} MB as JSON; a shared value has at most "
            f"{LARGEST // 1024 // 1024} MB: share the path or the URL of the data instead"
        )
    return text


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
