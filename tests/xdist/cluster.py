"""Projects that a controller and its workers run, and checks for what such runs leave behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, cast

import psutil
import pytest

from tests.plugin.project import OUTSIDE, ROOT, Project, plan_lines

PATIENCE = 30.0  # real seconds after which an expected event counts as missing
_MARK = "XDIST_TESTS_RUN"  # set for every process of a run, to find processes that are left
_SETTLE = 8.0  # execnet gives a worker 5 s to exit after its controller has exited


def wait_until(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Return the first true value of `condition`; fail if there is none within `patience`."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {patience} s: {condition}"
        time.sleep(0.01)
    return value


class Live:
    """A run in progress, in its own process session."""

    def __init__(
        self, argv: list[str], folder: Path, variables: dict[str, str], output: int | None = None
    ) -> None:
        self._began = time.monotonic()
        self._mark = uuid.uuid4().hex
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 - see __exit__
        self._process = subprocess.Popen(
            argv,
            cwd=folder,
            env={**_environment(folder), **variables, _MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=self._files[0] if output is None else output,
            stderr=self._files[1] if output is None else output,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.is_running():
            sys.stdout.write(self.output())
        for process in self.processes():
            process.kill()
        self._process.wait()
        for file in self._files:
            file.close()

    def processes(self) -> list[psutil.Process]:
        """Return the processes of this run that are still alive, wherever they were started."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def interrupt(self, *, group: bool) -> None:
        """Send SIGINT to the process group, as a terminal does, or to the controller alone."""
        (os.killpg if group else os.kill)(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """Kill the controller and no other process."""
        self._process.kill()

    def is_running(self) -> bool:
        """Whether the controller is still running."""
        return self._process.poll() is None

    def end(self, *, leaves_folder: bool = False) -> pytest.RunResult:
        """Wait for the end; fail if the run leaves a process or a folder."""
        wait_until(lambda: not self.is_running())
        status = self._process.returncode
        seconds = time.monotonic() - self._began
        said, told = (self._read(file).splitlines() for file in self._files)
        wait_until(lambda: not self.processes(), _SETTLE)
        if not leaves_folder:
            # A reaper that is becoming another program is not seen for a moment.
            wait_until(lambda: not list(Path(tempfile.gettempdir()).glob("plan-*")), _SETTLE)
        result = pytest.RunResult(status, said, told, seconds)
        for text in (result.stdout.str(), result.stderr.str()):
            sys.stdout.write(text + "\n")  # shown if the test fails
        assert "INTERNALERROR" not in result.stdout.str()
        return result

    def output(self) -> str:
        """Return the controller's output so far."""
        return self._read(self._files[0])

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(_MARK) == self._mark
        except psutil.Error:
            return False

    @staticmethod
    def _read(file: Any) -> str:
        return os.pread(file.fileno(), 10_000_000, 0).decode()


class Cluster(Project):
    """A project that a controller and workers run.

    Args:
        path: the project's folder.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(cast("pytest.Pytester", _Folder(path)))

    def start(
        self, *args: str | os.PathLike[str], env: dict[str, str] | None = None, **popen: Any
    ) -> Live:
        """Start pytest with xdist and the plugin; warnings are errors."""
        argv = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-p", "xdist", "-W", "error"]
        return Live([*argv, *(os.fspath(arg) for arg in args)], self.path, env or {}, **popen)

    def bare(self, *args: str, env: dict[str, str] | None = None) -> pytest.RunResult:
        """Run pytest with only the plugins that `args` and `env` name."""
        with Live([sys.executable, "-m", "pytest", *args], self.path, env or {}) as live:
            return live.end()

    def two(self, *args: str | os.PathLike[str], **options: Any) -> pytest.RunResult:
        """Run with two workers."""
        return self.apart("-n", "2", *args, **options)

    def apart(self, *args: str | os.PathLike[str], **options: Any) -> pytest.RunResult:
        """Run with xdist loaded; `args` set the number of workers."""
        with self.start(*args, **options) as live:
            return live.end()

    def called(self, *words: str) -> int:
        """Return how often `note` was called with exactly these words."""
        return self.calls.count(" ".join(words))

    def notes(self, first: str) -> list[str]:
        """Return the rest of each note that begins with `first`."""
        return [line[len(first) + 1 :] for line in self.calls if line.split(" ")[0] == first]


class _Folder:
    """The part of pytester that a project needs, so that several tests can share a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def syspathinsert(self) -> None:
        """Do nothing: each run is a new process with the folder on its path."""


def _environment(folder: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in OUTSIDE and not name.startswith(("PYTEST_", "PYTHONDONT"))
    }
    return {
        **kept,
        "TMPDIR": tempfile.gettempdir(),
        "COLUMNS": "120",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
        # Each run names the plugins that it wants.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }


def forget_folders() -> None:
    """Remove the folders that a killed controller left in the temporary folder."""
    for folder in Path(tempfile.gettempdir()).glob("plan-*"):
        shutil.rmtree(folder)


def outcomes(result: pytest.RunResult) -> dict[str, int]:
    """Return the counts from the closing line."""
    return {name: count for name, count in result.parseoutcomes().items() if name != "warnings"}


def verdicts(result: pytest.RunResult) -> dict[str, list[str]]:
    """Return the outcomes that a run with `-v` printed for each test, by the test's name."""
    found: dict[str, list[str]] = {}
    for line in result.outlines:
        if match := re.match(r"\[gw\d+\] \[ *\d+%\] (\w+) \S+?::(\S+)", line):
            found.setdefault(match[2], []).append(match[1])
    return found


def once(result: pytest.RunResult, *steps: str) -> None:
    """Check that exactly these steps succeeded, each reported once and cleaned up at most once."""
    others = r"plan: (\d+ steps?|stopping: .*|cleaning up .*)"
    lines = [line for line in plan_lines(result) if not re.fullmatch(others, line)]
    words = [line.split()[1:4] for line in lines]
    assert sorted(line[0] for line in words if line[1] == "ok") == sorted(steps)
    cleaned = [line[0] for line in words if line[1:] == ["cleanup", "ok"]]
    assert len(cleaned) == len(set(cleaned))
    assert len(words) == len(steps) + len(cleaned)


def glued(text: str) -> Iterator[str]:
    """Return the live lines of the plan that share a line with other output."""
    for line in text.replace("\r\n", "\n").split("\n"):
        place = line.find("plan: ")
        if place > 0 and not re.fullmatch(r"(\x1b\[[0-9;]*[mK])*", line[:place]):
            yield line
