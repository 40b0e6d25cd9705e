"""The process that cleans up when this one is killed: started, spoken to, let go."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from pytest_plan.engine.environments import watchdog as lease

PATIENCE = 5.0  # seconds after the limit that a process may take to end by itself
_GOODBYE = 1.0  # seconds that the reaper may take to go
# By these, CI systems find what a job has left running, and end it.
_TRACES = (
    "RUNNER_TRACKING_ID",
    "JENKINS_NODE_COOKIE",
    "HUDSON_SERVER_COOKIE",
    "VSTS_PROCESS_LOOKUP_ID",
)


class Reaper:
    """A watcher of this process, in a session of its own, without a port or a file.

    Args:
        journal: what it reads when this process has died.
        command: the program that then does what needs the project's code.
        environ: the environment variables of both.
        log: the file that they write to.

    Attributes:
        restarts: how often it has been started again.
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
        self._argv = [sys.executable, "-I", "-S", str(lease.__file__), str(os.getpid()), *reap]
        self._environ = {name: value for name, value in environ.items() if name not in _TRACES}
        self._log = log
        self._limit = "limit none"
        self.restarts = 0
        self._process = self._start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether it still watches."""
        return self._process.poll() is None

    def restart(self) -> None:
        """Start it again after it has died; raise OSError when that cannot be."""
        self.restarts += 1
        self._close()
        self._process = self._start()
        self._tell(self._limit)

    def limit(self, seconds: float | None) -> None:
        """Let it end this process some time after `seconds`; None: never."""
        at = "none" if seconds is None else str(time.monotonic() + seconds + PATIENCE)
        self._limit = f"limit {at}"
        self._tell(self._limit)

    def stop(self) -> None:
        """Let it go: everything is cleaned up, or is left on purpose."""
        self._tell("done")
        self._close()
        try:
            self._process.wait(_GOODBYE)
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
        # It may have died: whoever looks at it next will see.
        with contextlib.suppress(OSError, ValueError):
            os.write(self._stdin().fileno(), f"{line}\n".encode())

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._stdin().close()

    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin
