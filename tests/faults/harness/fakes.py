"""The steps and tests of the faulty projects: they record what they do and commit the faults.

This code runs inside the system under test but writes outside of it: one line per event, appended
with a single `write` to a file that nothing else touches.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_plan import Context, Step

HOOKS = ("pre_exec", "exec", "post_exec")
HISTORY, FAULTS, RELEASE = "FAULTS_HISTORY", "FAULTS_TO_DO", "FAULTS_RELEASE"  # variables
LONG = 600.0  # seconds; no test waits this long
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGRTMAX", "SIGUSR1", "SIGUSR2")
_SETTLE = 2.0


def note(*words: object) -> None:
    """Append a line to the history."""
    line = f"{time.monotonic():.6f} {os.getpid()} {' '.join(map(str, words))}\n"
    file = os.open(os.environ[HISTORY], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def at(moment: str, ctx: Context | None = None) -> None:
    """Record that this moment has come, and commit the fault planned for it."""
    note("at", moment)
    fault = json.loads(os.environ.get(FAULTS, "{}")).get(moment)
    if fault is not None:
        _DEEDS[fault](moment, ctx)


class Fake(Step):
    """A step with a process, a file, a deferred call and four moments for faults."""

    cleanup_when = "attempted"

    def pre_exec(self, ctx: Context) -> None:
        """Record the beginning and defer a call."""
        note("begin", ctx.step)
        note("defer", ctx.step, ctx.attempt)
        ctx.defer(note, "undo", ctx.step, ctx.attempt)
        at(f"{ctx.step}.pre_exec", ctx)

    def exec(self, ctx: Context) -> str:
        """Start a process (in one step) and write a file."""
        if ctx.step == "db":  # one is enough: searching for the members of a tree takes time
            ctx.start(["sleep", str(LONG)])
        (ctx.tmp_path / "made").write_text(ctx.step)
        at(f"{ctx.step}.exec", ctx)
        return ctx.step

    def post_exec(self, ctx: Context) -> None:
        """Record that the step is done."""
        at(f"{ctx.step}.post_exec", ctx)
        note("done", ctx.step)

    def cleanup(self, ctx: Context) -> None:
        """Record the cleanup."""
        note("cleanup", ctx.step)
        try:
            at(f"{ctx.step}.cleanup", ctx)
        finally:
            note("cleaned", ctx.step)


def watch_exit() -> None:
    """Record the state in which this process exits: changed signal handlers and our threads."""
    before = _handlers()

    def leave() -> None:
        note("leaving", os.getpid())
        note("exit", *(_changes(before) or ["clean"]))

    atexit.register(leave)


def _changes(before: dict[str, str]) -> list[str]:
    deadline = time.monotonic() + _SETTLE
    while set(found := _ours()) - _left_behind() and time.monotonic() < deadline:
        time.sleep(0.005)
    return found + [name for name, handler in _handlers().items() if handler != before[name]]


def _ours() -> list[str]:
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("plan")]
    return [name.replace(" ", "_") for name in names]


def _left_behind() -> set[str]:
    """Return the names of threads that no plan could end; the checker judges them."""
    faults: dict[str, str] = json.loads(os.environ.get(FAULTS, "{}"))
    stuck = ("hold", "sleep", "receive", "acquire", "c_call", "gil", "stubborn")
    return {f"plan-{moment.split('.')[0]}" for moment, fault in faults.items() if fault in stuck}


def _handlers() -> dict[str, str]:
    return {name: repr(signal.getsignal(getattr(signal, name))) for name in _SIGNALS}


def _hold(moment: str, ctx: Context | None) -> None:
    """Wait for the driver's release. A step waits with its `ctx`, so that it can be stopped."""
    released = Path(os.environ[RELEASE]).exists
    if ctx is not None and not moment.endswith(".cleanup"):
        ctx.wait_until(released, every=0.01)
    deadline = time.monotonic() + LONG
    while not released() and time.monotonic() < deadline:
        time.sleep(0.01)


def _error(moment: str, ctx: Context | None) -> None:
    raise ValueError(moment)


def _interrupt(moment: str, ctx: Context | None) -> None:
    raise KeyboardInterrupt


def _system_exit(moment: str, ctx: Context | None) -> None:
    raise SystemExit(7)


def _exit(moment: str, ctx: Context | None) -> None:
    pytest.exit(moment, returncode=7)


def _sleep(moment: str, ctx: Context | None) -> None:
    time.sleep(LONG)


def _receive(moment: str, ctx: Context | None) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.recv(1)


def _acquire(moment: str, ctx: Context | None) -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _spin(moment: str, ctx: Context | None) -> None:
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        pass


def _stubborn(moment: str, ctx: Context | None) -> None:
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        try:
            time.sleep(0.05)
        except BaseException:
            note("caught")


def _c_call(moment: str, ctx: Context | None) -> None:
    """Block in C code without the GIL, where no signal helps: lock a locked mutex."""
    library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def _gil(moment: str, ctx: Context | None) -> None:
    """Keep the interpreter's lock in C code, so that no other thread of the process runs."""
    sum(itertools.repeat(1, 10**11))


def _memory(moment: str, ctx: Context | None) -> None:
    """Exceed the limit of the address space."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
    try:
        bytearray(1 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _recurse(moment: str, ctx: Context | None) -> None:
    _recurse(moment, ctx)


def _die(moment: str, ctx: Context | None) -> None:
    os._exit(3)


def _kill(moment: str, ctx: Context | None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _segfault(moment: str, ctx: Context | None) -> None:
    ctypes.string_at(0)


def _once(moment: str, ctx: Context | None) -> None:
    """Fail the first two attempts."""
    if ctx is not None and ctx.attempt <= 2:
        raise ValueError(moment)


def _fork(moment: str, ctx: Context | None) -> None:
    """Fork. The child returns into the code of the engine and pytest, and must end there."""
    pid = os.fork()
    if pid == 0:
        note("child")
        return
    os.waitpid(pid, 0)


def _tree(moment: str, ctx: Context | None) -> None:
    """Run a program that ignores SIGTERM and has a child in another session."""
    assert ctx is not None
    child = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    root = (
        "import signal, subprocess, sys, time; signal.signal(15, signal.SIG_IGN);"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True);"
        "print('up', flush=True); time.sleep(600)"
    )
    ctx.run([sys.executable, "-c", root])


def _chain(moment: str, ctx: Context | None) -> None:
    """Run a daemon of which each process forks and exits faster than processes can be listed."""
    assert ctx is not None
    root = (
        "import os, sys, time\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        "file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND)\n"
        "end = time.monotonic() + 20\n"
        "while time.monotonic() < end:\n"
        "    if os.fork(): os._exit(0)\n"
        "    os.write(file, b'-')\n"
        "    time.sleep(0.002)\n"
    )
    beat = Path(os.environ[RELEASE]).with_name("beat")
    ctx.run([sys.executable, "-S", "-c", root, str(beat)])
    while not beat.exists():
        time.sleep(0.002)


_DEEDS: dict[str, Callable[[str, Context | None], Any]] = {
    name[1:]: deed
    for name, deed in globals().items()
    if name in (
        "_hold", "_error", "_interrupt", "_system_exit", "_exit", "_sleep", "_receive", "_acquire",
        "_spin", "_stubborn", "_c_call", "_gil", "_memory", "_recurse", "_die", "_kill",
        "_segfault", "_once", "_fork", "_tree", "_chain",
    )
}  # fmt: skip
