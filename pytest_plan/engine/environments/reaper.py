"""Controls the reaper, the process that cleans up if this process is killed."""

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

PATIENCE = 5.0  # how many seconds after the limit the reaper kills the process
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
        """The process id of the reaper."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Return whether the reaper is still running."""
        return self._process.poll() is None

    def restart(self) -> None:
        """Start a new reaper process after the last one has ended; raise OSError if that fails."""
        self.restarts += 1
        self._close()
        self._process = self._start()
        self._tell(self._limit)

    def limit(self, seconds: float | None) -> None:
        """Tell the reaper when to kill this process.

        Args:
            seconds: the seconds from now until the limit; the reaper kills this process `PATIENCE`
                seconds after the limit. None means never.
        """
        at = "none" if seconds is None else str(time.monotonic() + seconds + PATIENCE)
        self._limit = f"limit {at}"
        self._tell(self._limit)

    def stop(self) -> None:
        """Stop the reaper, because everything is cleaned up or kept on purpose."""
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
        # The reaper may have ended. Callers use `is_alive` to detect that.
        with contextlib.suppress(OSError, ValueError):
            os.write(self._stdin().fileno(), f"{line}\n".encode())

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._stdin().close()

    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin
