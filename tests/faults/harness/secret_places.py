# ruff: noqa: T201 - the steps print
"""A pytest plugin whose steps show a secret in every place and spelling that they can.

The secret is in the variable `THE_SECRET`, and how it becomes known in `MADE_KNOWN`. With
`UNMASKED`, nothing is masked, so that a test can see that it would find each spelling.
"""

from __future__ import annotations

import asyncio
import base64
import html
import json
import logging
import os
import shlex
import sys
import threading
import time
import urllib.parse
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from pytest_plan import Context, Secret, State
from pytest_plan.engine.model.secret import Masker

SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "repr": repr,
    "bytes": lambda text: repr(text.encode()),
    "json": json.dumps,
    "unicode": lambda text: json.dumps(text, ensure_ascii=False),
    "shell": shlex.quote,
    "double": lambda text: '"{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"')),
    "url": lambda text: urllib.parse.quote(text, safe=""),
    "path": urllib.parse.quote,
    "form": urllib.parse.quote_plus,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "token": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "basic": lambda text: base64.b64encode(f"us:{text}".encode()).decode(),
    "user": lambda text: base64.b64encode(f"user:{text}!".encode()).decode(),
    "hex": lambda text: text.encode().hex(),
    "HEX": lambda text: text.encode().hex().upper(),
    "html": html.escape,
}
_PIECES = """\
import os, sys, time
data = os.environb[b"TEXT"]
for at in range(0, len(data), 37):
    sys.stdout.buffer.write(data[at : at + 37])
    sys.stdout.buffer.flush()
time.sleep(600)
"""


def secret() -> str:
    """Return the secret."""
    return os.environ["THE_SECRET"]


def shown(place: str, name: str) -> str:
    """Return what a place shows of the secret in a spelling."""
    return f"{place}|{name}|{SPELLINGS[name](secret())}|"


def text(place: str) -> str:
    """Return what a place shows: the secret in each spelling."""
    return "\n".join(shown(place, name) for name in SPELLINGS)


def pytest_configure() -> None:
    """Mask nothing if the test asks for that."""
    if os.environ.get("UNMASKED"):
        Masker.forms = ()  # type: ignore[method-assign, assignment]


def pytest_plan_configure(plan: Any) -> None:
    """Put the secret into the State before the run if the test asks for that."""
    if os.environ["MADE_KNOWN"] == "before":
        plan.state["hidden"] = {"in": [(Secret(secret().encode()),)]}


@pytest.mark.plan_step
def known(ctx: Context, state: State) -> None:
    """Make the secret known."""
    how = os.environ["MADE_KNOWN"]
    ctx.log(text("early"))  # nothing is known yet
    if how == "hook":
        Secret(secret())
    elif how == "ctx":
        ctx.secret(secret())
    elif how == "state":
        state["hidden"] = [{"deep": Secret({"a": secret()})}]


@pytest.mark.plan_step(needs=["known"])
def writes(ctx: Context) -> None:
    """Write to the log in each way, and fail."""
    print(text("print"))
    whole = text("pieces")
    for at in range(0, len(whole), 11):
        print(whole[at : at + 11], end="")
    print()
    ctx.log(text("log"))
    logging.getLogger("shop").warning("%s", text("logging"))
    try:
        raise LookupError(text("logged"))
    except LookupError:
        logging.getLogger("shop").exception("it failed")
    if os.environ.get("DESCRIPTOR"):
        os.write(1, (text("descriptor") + "\n").encode())
    threading.Thread(target=print, args=(text("thread"),)).start()
    ctx.run([sys.executable, "-c", "import sys; sys.stdout.buffer.write(sys.argv[1].encode())",
             text("run")])  # fmt: skip
    warnings.warn(text("warning"), stacklevel=1)
    raise RuntimeError(text("error"))


@pytest.mark.plan_step(needs=["known"])
def starts(ctx: Context) -> None:
    """Start a program that writes in pieces and does not end its last line."""
    ctx.start([sys.executable, "-c", _PIECES], env={"TEXT": text("program")})
    time.sleep(0.7)


@pytest.mark.plan_step(needs=["known"])
def tail(ctx: Context) -> Iterator[None]:
    """Fail in the tail of a generator, and in a deferred call."""

    def undo() -> None:
        raise OSError(text("deferred"))

    ctx.defer(undo)
    yield
    try:
        raise KeyError(text("cause"))
    except KeyError as error:
        error.add_note(text("note"))
        raise RuntimeError("of the tail") from error


@pytest.mark.plan_step(needs=["known"])
async def waits() -> AsyncIterator[None]:
    """Fail in a task of an async generator."""

    async def fail() -> None:
        raise RuntimeError(text("task"))

    yield
    await asyncio.create_task(fail())


@pytest.mark.plan_step(needs=["known"], retries=1, retry_wait=0)
def tries(ctx: Context) -> None:
    """Fail once."""
    if ctx.attempt == 1:
        raise RuntimeError(text("attempt"))


@pytest.mark.plan_step(needs=["known"])
def skips() -> None:
    """Skip with a reason."""
    pytest.skip(text("skip"))


@pytest.mark.plan_step(needs=["writes", "starts", "tail", "waits", "tries"])
def ends(ctx: Context) -> None:
    """Is blocked."""


@pytest.mark.plan_step(needs=["known", "starts", "tries"])
def leaves() -> None:
    """End the session if the test asks for that."""
    how = os.environ.get("LEAVES")
    if how == "exit":
        pytest.exit(text("leaves"), returncode=9)
    elif how == "system":
        raise SystemExit(text("leaves"))
    elif how == "interrupt":
        raise KeyboardInterrupt(text("leaves"))
