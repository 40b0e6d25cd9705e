"""The programs that read compose files: `docker compose`, docker-compose and podman-compose."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pytest_plan.engine.calls.context import Context, starter_of
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import PlanError
from pytest_plan.steps.containers.engines.engine import TAKEN, Engine

_SHOWN_LINES = 5
_LOOK = 0.1  # seconds between two looks at a program
_NONE = (
    "compose needs one of these programs in PATH: docker with its plugin compose, docker-compose, "
    "podman-compose (for podman only)"
)


class ComposeProgram:
    """A program that reads compose files, for one project.

    Args:
        ctx: the context of the step.
        engine: the engine to which the program talks.
        files: the compose files.
        project: the name of the project.

    Raises:
        RuntimeError: no such program is installed.
    """

    def __init__(self, ctx: Context, engine: Engine, files: Sequence[Path], project: str) -> None:
        self._ctx = ctx
        self._files = ", ".join(map(str, files))
        self._env = {"DOCKER_HOST": engine.address}
        if engine.is_podman:
            self._env["CONTAINER_HOST"] = engine.address  # for podman, which podman-compose starts
        program = find_program(is_podman=engine.is_podman)
        if program is None:
            raise RuntimeError(_NONE)
        where = [part for file in files for part in ("-f", str(file))]
        self._argv = [*program, "-p", project, *where]

    def check(self) -> None:
        """Check the compose files.

        Raises:
            RuntimeError: a file has an error.
        """
        done = self._ctx.run([*self._argv, "config", "-q"], check=False, env=self._env)
        if done.returncode:
            raise RuntimeError(
                f"compose cannot use {self._files}:\n{_end_of(done.stderr or done.stdout)}"
            )

    def up(self, services: Sequence[str], timeout: float | None) -> None:
        """Create and start the containers of the services; of all if there are none.

        Raises:
            RuntimeError: the program has failed.
            TimeoutError: it took longer than `timeout` seconds; None means no limit.
        """
        # Not `run`: this may take minutes, and its output is to be in the log meanwhile.
        process = self._ctx.start([*self._argv, "up", "-d", *services], env=self._env, watch=False)
        try:
            self._ctx.wait_until(lambda: process.poll() is not None, timeout, _LOOK)
        except TimeoutError as error:
            if timeout is None or isinstance(error, PlanError):
                raise
            raise TimeoutError(
                f"compose has not started {self._files} within {format_duration(timeout)}; "
                f"its output ends:\n{self._output()}"
            ) from None
        if process.returncode:
            output = self._output()
            cure = (
                '\nTo let the engine choose a free port, write: ports: ["80"]'
                if re.search(TAKEN, output)
                else ""
            )
            raise RuntimeError(
                f"compose cannot start {self._files}: it exited with status {process.returncode}:"
                f"\n{output}{cure}"
            )

    def _output(self) -> str:
        return _end_of(starter_of(self._ctx).care().log.tail())


def find_program(*, is_podman: bool) -> list[str] | None:
    """Return the first program that reads compose files, as the beginning of a command.

    Args:
        is_podman: whether the engine is podman. podman-compose can use no other.
    """
    if shutil.which("docker") and _has_plugin():
        return ["docker", "compose"]
    names = ["docker-compose", *(["podman-compose"] if is_podman else [])]
    return next(([name] for name in names if shutil.which(name)), None)


def _has_plugin() -> bool:
    """Return whether the program docker has the plugin compose."""
    argv = ["docker", "compose", "version"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0  # noqa: S603 - fixed words


def _end_of(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-_SHOWN_LINES:])
