"""What the steps and tests of a random run do. This code runs inside the system under test.

Everything that must be undone is announced before it exists (`announce`), and confirmed afterward
(`defer`, `owed`), so the history is unambiguous even if the process is killed between two lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_plan import Context
from tests.faults.harness.fakes import HISTORY, LONG, note

OUTSIDE = "SOAK_OUTSIDE"  # a variable: the folder in which steps create files
SERVER = Path(__file__).with_name("server.py")
_NGINX = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def plan() -> dict[str, Any]:
    """Return the data of this run."""
    data: dict[str, Any] = json.loads(_beside("plan.json").read_text())
    return data


def step(name: str) -> dict[str, Any]:
    """Return the data of a step."""
    steps: list[dict[str, Any]] = plan()["steps"]
    return next(one for one in steps if one["name"] == name)


def work(ctx: Context) -> int | None:
    """Create everything that a step creates; return the port of its program."""
    data = step(ctx.step)
    _begin(ctx, data)
    port = _start(ctx, data)
    if port:
        ctx.wait_until(lambda: _reply(port), timeout="20s", every=0.02)
    _files(ctx, data, undo)
    _fault(ctx, data, late=True)
    return port


async def work_async(ctx: Context) -> int | None:
    """Do the same without blocking the event loop."""
    data = step(ctx.step)
    _begin(ctx, data)
    port = _start(ctx, data)
    deadline = time.monotonic() + 20
    while port and not _answers(port) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    _files(ctx, data, undo_async)
    if data["late"] and data["fault"] in ("wait", "spin"):
        note("fault", ctx.step, data["fault"])
        while data["fault"] == "spin":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(LONG)
    _fault(ctx, data, late=True)
    return port


def owe(ctx: Context) -> None:
    """Record that the step's cleanup hook, or the code after its `yield`, is due from now on."""
    note("owed", ctx.step, ctx.attempt)


def finish(ctx: Context) -> None:
    """The hook `post_exec` of steps with a cleanup hook."""
    if not step(ctx.step)["attempted"]:
        owe(ctx)
    note("done", ctx.step, ctx.attempt)


def cleanup(ctx: Context) -> None:
    """The hook `cleanup`."""
    tail(ctx.step, "hook")


def tail(name: str, attempt: object) -> None:
    """The code after the `yield`, or a cleanup hook."""
    note("cleanup", name, attempt)
    data = step(name)
    if data["fault"] == "slow cleanup":
        time.sleep(0.4)
    note("cleaned", name, attempt)
    _fail_once(data)


def undo(name: str, token: str) -> None:
    """Remove what was announced under this token."""
    note("undo", name, token)
    Path(os.environ[OUTSIDE], f"{name}.{token}").unlink(missing_ok=True)
    data = step(name)
    if data["fault"] == "slow cleanup" and token.startswith("1.0"):
        time.sleep(0.4)
    note("undone", name, token)
    _fail_once(data)


async def undo_async(name: str, token: str) -> None:
    """Remove what was announced, as a coroutine."""
    await asyncio.sleep(0)
    undo(name, token)


def act(number: int, values: dict[str, int | None]) -> None:
    """What a test does: it talks to the programs of its steps, and commits its fault."""
    note("test", number)
    for name, port in values.items():
        if port and not _answers(port):
            note("unreachable", name, port)
    fault = plan()["tests"][number]["fault"]
    if fault in (None, "slow"):
        time.sleep(0.4 if fault else 0)
    elif fault in ("fork", "sys.exit in fork"):
        note("mishap", "test", fault)
        _fork(is_exit=fault != "fork")
    else:
        note("fault", "test", fault)
        _DEEDS[fault]()
    note("tested", number)


def _fail_once(data: dict[str, Any]) -> None:
    """Fail in the first cleanup or deferred call of the step, in whichever process that is."""
    failed = _beside(f"{data['name']} failed")
    if data["fault"] == "error in cleanup" and not failed.exists():
        failed.touch()
        note("fault", data["name"], data["fault"])
        raise ValueError(data["name"])


def _beside(name: str) -> Path:
    return Path(os.environ[OUTSIDE]).with_name(name)


def _begin(ctx: Context, data: dict[str, Any]) -> None:
    note("begin", ctx.step, ctx.attempt)
    _fault(ctx, data, late=False)


def _files(ctx: Context, data: dict[str, Any], remove: Callable[..., Any]) -> None:
    for number, how in enumerate(data["files"]):
        token = f"{ctx.attempt}.{number}.{how}"
        note("announce", ctx.step, token)
        if how == "closure":
            ctx.defer(lambda token=token: undo(data["name"], token))
        else:
            ctx.defer(remove, ctx.step, token)
        note("defer", ctx.step, token)
        Path(os.environ[OUTSIDE], f"{ctx.step}.{token}").touch()


def _start(ctx: Context, data: dict[str, Any]) -> int | None:
    kind = data["program"]
    if kind is None:
        return None
    if kind == "shell":
        note("program", ctx.step, kind)
        ctx.start(["sh", "-c", "sleep 600 & sleep 600", os.environ[OUTSIDE]])
        return None
    port = ctx.free_port()
    if kind == "nginx" and shutil.which("nginx"):
        argv = _nginx(ctx.tmp_path, port)
    elif kind == "redis" and shutil.which("redis-server"):
        argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--daemonize", "yes",
                "--save", "", "--dir", str(ctx.tmp_path)]  # fmt: skip
    else:
        kind = "daemon" if kind in ("nginx", "redis") else kind
        words = [kind, ctx.step, str(port), os.environ[OUTSIDE]]
        argv = [sys.executable, "-I", "-S", str(SERVER), *words]
    note("program", ctx.step, kind.replace(" ", "-"))
    note("port", ctx.step, port)
    if kind in ("daemon", "nginx", "redis"):
        ctx.run(argv)
    else:
        ctx.start(argv, stop_grace="0.5s")
    return port


def _nginx(base: Path, port: int) -> list[str]:
    folders = "".join(f"{name}_temp_path {base}/{name}; " for name in _NGINX)
    server = f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 ours; }} }}"
    (base / "nginx.conf").write_text(
        f"pid {base}/pid; error_log {base}/errors; events {{}}\n"
        f"http {{ access_log off; {folders} {server} }}\n"
    )
    return ["nginx", "-p", str(base), "-c", str(base / "nginx.conf")]


def _answers(port: int) -> bool:
    try:
        return _reply(port)
    except OSError:
        return False


def _reply(port: int) -> bool:
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    return True


def _fault(ctx: Context, data: dict[str, Any], *, late: bool) -> None:
    fault = data["fault"]
    if data["late"] != late or fault in (None, "error in cleanup", "slow cleanup"):
        return
    if fault == "error once":
        if ctx.attempt == 1:
            note("mishap", ctx.step, fault)
            raise ValueError(fault)
    elif fault == "fork":
        note("mishap", ctx.step, fault)
        _fork(is_exit=False)
    elif fault == "wait":
        note("fault", ctx.step, fault)
        ctx.sleep(LONG)
    else:
        note("fault", ctx.step, fault)
        _DEEDS[fault]()


def _fork(*, is_exit: bool) -> None:
    """Fork. The child returns into the code of the engine and pytest, and must end there."""
    pid = os.fork()
    if pid == 0:
        os.environ[HISTORY] = os.devnull  # the history is that of the original
        if is_exit:
            sys.exit(0)
        return
    os.waitpid(pid, 0)


def _error() -> None:
    raise ValueError("a fault")


def _leave() -> None:
    pytest.exit("a fault", returncode=7)


def _block() -> None:
    time.sleep(LONG)


def _spin() -> None:
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        time.sleep(0.001)


def _stubborn() -> None:
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        try:
            time.sleep(0.05)
        except BaseException:
            note("caught")


_DEEDS = {"error": _error, "exit": _leave, "wait": _block, "block": _block, "spin": _spin,
          "stubborn": _stubborn}  # fmt: skip
