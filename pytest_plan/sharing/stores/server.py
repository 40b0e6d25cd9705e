"""A server, as its URL describes it: its label for messages, and the secrets in the URL."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from pytest_plan.sharing.errors import ShareSetupError


class Server(NamedTuple):
    """A server and how to reach it.

    Attributes:
        url: its URL, with the password.
        label: its URL without user, password and options, for messages.
        secrets: the texts that no message may contain.
    """

    url: str
    label: str
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Server {self.label}>"


def server_of(url: str) -> Server:
    """Return the server of a URL.

    Raises:
        ShareSetupError: the URL has no valid host or port. The message does not contain the URL.
    """
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        host = parts.hostname or ""
    except ValueError:
        raise _bad_url() from None
    if "@" in f"{parts.path}{parts.query}" or parts.fragment:
        raise _bad_url()  # a part of the password is taken for something else
    options = dict(parse_qsl(parts.query))
    if not host:
        host = options.get("host", "")
    label = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{parts.path}"
    password = parts.password or ""
    found = (password, unquote(password), options.get("password", ""))
    return Server(url, label, (url, *dict.fromkeys(filter(None, found))))


def _bad_url() -> ShareSetupError:
    return ShareSetupError(
        "the URL of --plan-share has no valid host or port; write it as redis://host:6379 or "
        "postgresql://user@host:5432/database, and characters such as @, / and # in a password as "
        "%40, %2F and %23"
    )
