"""Controls the reaper, the process that cleans up if this process is killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from pytest_plan.engine.environments import watchdog
from pytest_plan.engine.model.clock import Flag, SystemClock
from pytest_plan.engine.processes.copies import getpid
from pytest_plan.engine.processes.identity import Identity
from pytest_plan.engine.processes.process import wait_for_exit

PATIENCE = 5.0  # seconds after the limit without a beat after which the reaper kills the process
_BEAT = 1.0  # seconds between two beats
_RUN_MODULE = """\
import os, sys
path, module, *arguments = sys.argv[1:]
sys.path[:] = path.split(os.pathsep)
sys.argv = [module, *arguments]
import runpy
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
_STOP_TIMEOUT = 1.0  # seconds that the reaper has to end
# CI systems use these variables to find and end the processes that a job left running. The reaper
# must survive that.
_CI_MARKS = (
    "RUNNER_TRACKING_ID",
    "JENKINS_NODE_COOKIE",
    "HUDSON_SERVER_COOKIE",
    "VSTS_PROCESS_LOOKUP_ID",
)


class Reaper:
    """The reaper of this process. It runs in its own session and uses no port and no lock file.

    Args:
        journal: the journal that the reaper reads once this process has ended.
        command: the program that then runs the cleanups that need the project's code.
        environ: the environment variables of the reaper and of `command`.
        log: the file for the output of both.

    Attributes:
        restarts: the number of times that the reaper was restarted.

    Raises:
        OSError: the reaper cannot be started.
    """

    _write = staticmethod(os.write)  # a test may replace it while the thread of the beats runs

    def __init__(
        self, journal: Path, command: Sequence[str], environ: Mapping[str, str], log: Path
    ) -> None:
        reap = module_argv(
            sys.executable, sys.path, "pytest_plan.engine.environments.reap", str(journal), *command
        )
        program = [sys.executable, "-I", "-S", str(watchdog.__file__)]
        if "pydevd" in sys.modules:
            # An editor's debugger debugs each child whose program is a Python, and ends it when the
            # user stops debugging. The reaper must survive that.
            program.insert(0, "/usr/bin/env")
        self._argv = [*program, str(getpid()), str(journal), *reap]
        self._environ = {name: value for name, value in environ.items() if name not in _CI_MARKS}
        self._log = log
        self._pid = getpid()
        self._limit = "limit none"
        self._workers: list[str] = []
        self._journal: str | None = None  # the line for a journal that was written again
        self._beats: threading.Thread | None = None
        self._ends = Flag()
        self.restarts = 0
        self._process = self._start()

    @property
    def pid(self) -> int:
        """The process id of the reaper."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Return whether the reaper is still running."""
        return self._process.poll() is None

    def restart(self) -> None:
        """Start a new reaper process after the last one has ended; raise OSError if that fails."""
        self.restarts += 1
        beats = self._beats is not None
        self._close()
        self._process = self._start()
        for line in (*self._workers, self._journal, self._limit):
            if line is not None:
                self._tell(line)
        if beats:
            self._begin_beats()

    def limit(self, seconds: float | None) -> None:
        """Tell the reaper when it may kill this process.

        A thread of this process sends a beat every second. The reaper kills the process only after
        the limit, and only after `PATIENCE` seconds without a beat, because then some code keeps
        the interpreter's lock. Seconds in which the process is stopped or traced do not count.

        Args:
            seconds: the seconds from now until the limit; None means that there is no limit.
        """
        has_limit = seconds is not None and self._begin_beats()
        at = f"{SystemClock.now() + (seconds or 0.0)} {PATIENCE}" if has_limit else "none"
        self._limit = f"limit {at}"
        self._tell(self._limit)

    def guard(self, worker: Identity) -> None:
        """Let the reaper kill a process first of all when this process has ended.

        Args:
            worker: a process of this machine that must not outlive this process.
        """
        if worker.birth:
            self._workers.append(f"worker {worker.pid} {worker.birth}")
            self._tell(self._workers[-1])

    def follow(self, journal: Path) -> None:
        """Let the reaper read this journal, because the one that it knows was lost."""
        self._log = journal.with_name(self._log.name)
        self._journal = f"journal {os.fsencode(journal).hex()}"
        self._tell(self._journal)

    def stop(self) -> int:
        """Stop the reaper, because everything is cleaned up or kept on purpose.

        Returns:
            Its exit status: 0 if it has worked, and less if it did not end in time and was killed.
        """
        self._tell("done")
        self._close()
        try:
            wait_for_exit(self._process, _STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return self._process.returncode

    def _begin_beats(self) -> bool:
        """Start the thread that sends beats; return False if the system refuses a thread."""
        if self._beats is None:
            self._ends = Flag()
            beats = threading.Thread(target=self._beat, name="plan-beat", daemon=True)
            try:
                beats.start()
            except RuntimeError:
                return False
            self._beats = beats
        return True

    def _beat(self) -> None:
        while not self._ends.wait(_BEAT):
            self._tell("beat")

    def _start(self) -> subprocess.Popen[bytes]:
        with open(self._log, "ab", opener=_private) as log:
            process = subprocess.Popen(  # noqa: S603 - our own program
                self._argv,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                env=self._environ,
                start_new_session=True,
            )
        os.set_blocking(_stdin(process).fileno(), False)  # if the reaper is stopped, do not wait
        return process

    def _tell(self, line: str) -> None:
        if getpid() != self._pid:
            return  # this is a forked copy of the process; the reaper watches the original
        # The reaper may have ended. Callers use `is_alive` to detect that.
        with contextlib.suppress(OSError, ValueError):
            self._write(_stdin(self._process).fileno(), f"{line}\n".encode())

    def _close(self) -> None:
        if self._beats is not None and getpid() == self._pid:
            # A later beat could be written to another file with the same descriptor.
            self._ends.set()
            self._beats.join()
            self._beats = None
        with contextlib.suppress(OSError):
            _stdin(self._process).close()


def module_argv(python: str, path: Sequence[str], module: str, *arguments: str) -> list[str]:
    """Return a command that runs a module as `python -m` does, with `path` as its `sys.path`.

    The variable PYTHONPATH would have the same effect, but programs that the module starts would
    inherit it, and some of them are written for another Python.
    """
    return [python, "-c", _RUN_MODULE, os.pathsep.join(filter(None, path)), module, *arguments]


def _stdin(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
