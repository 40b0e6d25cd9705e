"""Starts runs of pytest quickly: a process that has imported everything forks for each run.

Imports take half of the time of a short run. Each forked run has its own session, environment and
files, and exits as any interpreter does.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[3]
_LOOK = 0.01  # seconds between two polls
_PLUGINS = ("pytest_plan", "xdist", "pytest_timeout")
_USED = (
    "pytest_plan.plugin.session.controller.controller",
    "pytest_plan.plugin.xdist.server",
    "pytest_plan.plugin.run.environments.environment",
    "pytest_plan.plugin.items.gate",
    "pytest_plan.plugin.main_thread.limit",
    "pytest_plan.plugin.compat.xdist_internals",
    "pytest_plan.plugin.session.session",
    "pytest_plan.plugin.session.solo",
    "pytest_plan.plugin.run.hook_caller",
    "pytest_plan.report.terminal.show",
    "pytest_plan.report.terminal.live",
    "psutil",
    "tests.faults.harness.fakes",
    "xdist.dsession",
)


class Started:
    """A forked run, with the parts of the interface of `subprocess.Popen` that the tests use."""

    def __init__(self, pid: int, status: Path) -> None:
        self.pid = pid
        self._status = status

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while the run goes on."""
        return int(self._status.read_text()) if self._status.exists() else None

    def wait(self) -> None:
        """Wait until the run has ended."""
        while self.poll() is None:
            time.sleep(_LOOK)


class Zygote:
    """The process that forks the runs. It lives until `close`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.harness.zygote"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True,
            env={name: value for name, value in os.environ.items() if "PYTEST" not in name},
        )  # fmt: skip

    def start(self, args: Sequence[str], cwd: Path, env: Mapping[str, str], output: str) -> Started:
        """Start `python -m pytest` with these arguments in a new session."""
        status = Path(output).with_name("status")
        status.unlink(missing_ok=True)  # left by the previous run in the same folder
        request = [list(args), str(cwd), dict(env), output, str(status)]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(request)}\n".encode())
        self._process.stdin.flush()
        return Started(int(self._process.stdout.readline()), status)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def main() -> None:
    """Fork for each request. The child leaves the loop and becomes the run."""
    _import_all()
    running: dict[int, str] = {}
    os.set_blocking(0, False)
    buffer = b""
    while True:
        with contextlib.suppress(BlockingIOError):
            read = os.read(0, 1 << 20)
            if not read:
                return
            buffer += read
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                _become(*request[:4])
                return
            running[pid] = request[4]
            os.write(1, f"{pid}\n".encode())
        _tell_ended(running)
        time.sleep(_LOOK)


def _tell_ended(running: dict[int, str]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        file = Path(running.pop(pid))
        unfinished = file.with_suffix(".new")
        unfinished.write_text(str(os.waitstatus_to_exitcode(status)))
        unfinished.rename(file)


def _become(args: list[str], cwd: str, env: dict[str, str], output: str) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have ignored SIGINT
    for number, (file, flags) in enumerate([(os.devnull, os.O_RDONLY), (output, os.O_WRONLY)]):
        opened = os.open(file, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.dup2(1, 2)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None
    sys.path[:1] = [cwd, *env["PYTHONPATH"].split(os.pathsep)]
    sys.argv = ["pytest", *args]
    runpy.run_module("pytest", run_name="__main__", alter_sys=True)


def _import_all() -> None:
    import pytest

    plugins = [word for plugin in _PLUGINS for word in ("-p", plugin)]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["--version", "--version", "-c", os.devnull, *plugins])
    for name in _USED:
        importlib.import_module(name)
    for name, module in sys.modules.items():
        if name.partition(".")[0] in _PLUGINS:
            # Otherwise pytest warns that it is too late to rewrite the asserts of these plugins.
            module.__doc__ = f"{module.__doc__} PYTEST_DONT_REWRITE"
    gc.collect()
    gc.freeze()  # keeps memory shared with the forked processes


if __name__ == "__main__":
    main()
