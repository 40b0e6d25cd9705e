"""Starts, instructs and stops the reaper: the process that cleans up when this one is killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from pytest_plan.engine.environments import watchdog

PATIENCE = 5.0  # seconds after the limit until the reaper kills a process that has not ended
_STOP_TIMEOUT = 1.0  # seconds
# By these variables CI systems find the processes that a job left running, and end them. The
# reaper must survive that.
_CI_MARKS = (
    "RUNNER_TRACKING_ID",
    "JENKINS_NODE_COOKIE",
    "HUDSON_SERVER_COOKIE",
    "VSTS_PROCESS_LOOKUP_ID",
)


class Reaper:
    """The reaper of this process. It runs in a new session and uses no port and no lock file.

    Args:
        journal: the journal that it reads when this process has died.
        command: the program that then runs the cleanups, which need the project's code.
        environ: the environment variables of the reaper and of `command`.
        log: the file for their output.

    Attributes:
        restarts: how many times it was restarted.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self, journal: Path, command: Sequence[str], environ: Mapping[str, str], log: Path
    ) -> None:
        reap = [
            sys.executable,
            "-m",
            "pytest_plan.engine.environments.reap",
            str(journal),
            *command,
        ]
        self._argv = [sys.executable, "-I", "-S", str(watchdog.__file__), str(os.getpid()), *reap]
        self._environ = {name: value for name, value in environ.items() if name not in _CI_MARKS}
        self._log = log
        self._limit = "limit none"
        self.restarts = 0
        self._process = self._start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Return whether it still runs."""
        return self._process.poll() is None

    def restart(self) -> None:
        """Start it again after it has died; raise OSError if it cannot be started."""
        self.restarts += 1
        self._close()
        self._process = self._start()
        self._tell(self._limit)

    def limit(self, seconds: float | None) -> None:
        """Have it kill this process `PATIENCE` after `seconds` from now; None: never."""
        at = "none" if seconds is None else str(time.monotonic() + seconds + PATIENCE)
        self._limit = f"limit {at}"
        self._tell(self._limit)

    def stop(self) -> None:
        """Stop it, because everything is cleaned up or deliberately kept."""
        self._tell("done")
        self._close()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                env=self._environ,
                start_new_session=True,
            )

    def _tell(self, line: str) -> None:
        # It may have died, which `is_alive` will tell.
        with contextlib.suppress(OSError, ValueError):
            os.write(self._stdin().fileno(), f"{line}\n".encode())

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._stdin().close()

    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin
