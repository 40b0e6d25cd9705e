"""Runs of pytest with injected faults: many at once, each judged by the checker."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from xml.etree import ElementTree

import psutil
import pytest

from pytest_plan.engine.shared.signals import TOGETHER
from tests.faults.harness import checker, fakes
from tests.faults.harness.project import CONFTEST, TESTS
from tests.faults.harness.zygote import Started, Zygote

ROOT = Path(__file__).parents[3]
PATIENCE = 40.0  # real seconds after which an expected event counts as missing
SLACK = float(os.environ.get("FAULTS_SLACK", "1"))  # factor for time limits on a busy machine
SETTLE = 3.0  # real seconds within which a process must disappear
AT_ONCE = 5  # runs at the same time if each is busy most of the time
WAITING = 10  # runs at the same time if they mostly wait for a timeout
_SHOWN = 2  # number of runs whose history and output a failure shows
NEEDS = {"db": ["net"], "web": ["db"]}
PYTEST = ["-m", "pytest"]
STEPS = ("net", "db", "web")
HOOKS = fakes.HOOKS
FORWARD = [f"{step}.{hook}" for step in STEPS for hook in HOOKS]
BACKWARD = [f"{step}.cleanup" for step in reversed(STEPS)]
TESTING = ["test.setup", "test.call", "test.teardown"]
MOMENTS = [*FORWARD, *TESTING, *BACKWARD]

Story: TypeAlias = Generator[Callable[[], Any], None, None]


@dataclass
class Tally:
    """Counts of what was injected, and of the violations it caused."""

    runs: int = 0
    faults: int = 0
    kills: int = 0
    violations: int = 0


class Run:
    """One run of pytest, with its own project, history and temporary folder.

    Args:
        name: identifies the run in failures.
        tally: counts runs, faults, kills and violations.
        zygote: forks the run where that makes no difference; None: always start an interpreter.

    Attributes:
        status: the exit status, negative if a signal ended the process; None while it runs.
        wrong: descriptions of the violations.
        moved: the time at which the last signal was sent.
    """

    def __init__(self, name: str, tally: Tally, zygote: Zygote | None = None) -> None:
        self.name = name
        self._zygote = zygote
        self.wrong: list[str] = []
        self.status: int | None = None
        self.moved = 0.0
        self.folder = Path(tempfile.mkdtemp(prefix="r"))
        self.project = self.folder / "project"
        self._tally = tally
        self._temporary = self.folder / "t"
        self._mark = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | Started | None = None
        self._known: dict[int, psutil.Process] = {}
        self._read: tuple[int, list[checker.Line]] = (0, [])
        for folder in (self.project, self._temporary):
            folder.mkdir()
        self._temporary.chmod(0o711)
        self.state = self.folder / "state"  # if it exists, the run keeps its key in it
        self.folder.chmod(0o711)
        self.write("pytest.ini", "[pytest]\n")
        self.write("conftest.py", CONFTEST)
        self.write("test_it.py", TESTS)

    def write(self, name: str, text: str) -> None:
        """Write a file of the project."""
        (self.project / name).write_text(text)

    def start(
        self,
        *args: str,
        faults: Mapping[str, str] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        env: Mapping[str, str] | None = None,
        argv: Iterable[str] = ("-m", "pytest", "-p", "pytest_plan", "-W", "error"),
        under: Iterable[str] = (),
        **popen: Any,
    ) -> None:
        """Start pytest; each of `faults` happens when its moment comes.

        Args:
            args: arguments for pytest.
            faults: the fault for each moment.
            options: the options of the steps, by name.
            env: additional environment variables.
            argv: the arguments before `args`; by default they turn warnings into errors.
            under: a program that executes Python, and its arguments.
            popen: keyword arguments for `Popen`.
        """
        self._tally.runs += 1
        deeds = [fault for fault in (faults or {}).values() if fault != "hold"]
        self._tally.faults += len(deeds)
        self._tally.kills += len([fault for fault in deeds if fault in ("die", "kill", "segfault")])
        xdist = ["-p", "xdist"] if "-n" in args else ["-p", "no:xdist"]
        argv = [*argv, *xdist, *args]
        variables = {
            **self._variables(),
            fakes.FAULTS: json.dumps(faults or {}),
            "FAULTS_OPTIONS": json.dumps(options or {}),
            **(env or {}),
        }
        with (self.folder / "output").open("wb") as output:
            is_plain = argv[:2] == PYTEST and not (under or popen or "PYTHON" in str(env))
            if self._zygote and is_plain:
                self._process = self._zygote.start(argv[2:], self.project, variables, output.name)
                return
            self._process = subprocess.Popen(
                [*under, sys.executable, *argv],
                cwd=self.project,
                env=variables,
                **{
                    "stdin": subprocess.DEVNULL,
                    "stdout": output,
                    "stderr": subprocess.STDOUT,
                    "start_new_session": True,
                    **popen,
                },
            )

    @property
    def pid(self) -> int:
        """The process id of pytest, which is the controller when there are workers."""
        assert self._process is not None
        return self._process.pid

    @property
    def history(self) -> list[checker.Line]:
        """The events that the run has recorded so far."""
        path = self.folder / "history"
        size = path.stat().st_size if path.exists() else 0
        if size != self._read[0]:  # the file is polled many times a second
            self._read = (size, checker.read(path))
        return self._read[1]

    def notes(self, what: str) -> list[str]:
        """Return the words of all events `what` in the history."""
        return [" ".join(line.words) for line in self.history if line.what == what]

    def output(self) -> str:
        """Return the run's output so far."""
        return (self.folder / "output").read_text(errors="replace")

    def time_of(self, what: str, *words: str) -> float:
        """Return when this event was first recorded; infinity if it never was."""
        lines = [line for line in self.history if line.what == what]
        times = [line.time for line in lines if line.words[: len(words)] == words]
        return min(times, default=math.inf)

    def reached(self, *moments: str) -> Callable[[], bool]:
        """Return a check for whether all these moments have come or the run has ended."""
        return lambda: set(moments) <= set(self.notes("at")) or self.ended()

    def ended(self) -> bool:
        """Whether pytest has ended."""
        assert self._process is not None
        self.status = self._process.poll()
        return self.status is not None

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to pytest, or to its whole process group as a terminal does."""
        if self.ended():
            self.wrong.append(f"ended with {self.status} before {signal.Signals(number).name}")
            return
        self._tally.faults += 1
        self._tally.kills += number == signal.SIGKILL
        self.moved = time.monotonic()
        (os.killpg if group else os.kill)(self.pid, number)

    def is_later(self) -> bool:
        """Return whether another signal would not be part of the last one, or the run has ended."""
        return time.monotonic() > self.moved + TOGETHER + 0.1 or self.ended()

    def kill(self, process: psutil.Process, number: int) -> None:
        """Send a signal to another process of the run, such as a worker or the reaper."""
        self._tally.faults += 1
        self._tally.kills += number == signal.SIGKILL
        process.send_signal(number)

    def workers(self) -> dict[int, psutil.Process]:
        """Return the workers of pytest-xdist, by process id."""
        if not self.ended():
            found = psutil.Process(self.pid).children()
            self._known = {child.pid: child for child in found if "sleep" not in child.name()}
        return self._known

    def release(self) -> None:
        """Release everything that a `hold` fault holds."""
        (self.folder / "release").touch()

    def says(self, text: str) -> Callable[[], bool]:
        """Return a check for whether the run has written `text` or has ended."""
        return lambda: text in self.output() or self.ended()

    def expect(self, condition: object, text: str) -> None:
        """Record the violation `text` unless `condition` is true."""
        if not condition:
            self.wrong.append(text)

    def judge(
        self,
        status: int | None = None,
        *,
        needs: checker.Needs = NEEDS,
        left: Collection[str] = (),
        exits: bool = True,
        internal_error: bool | None = False,
        stuck: Collection[str] = (),
        owner_only: bool = False,
        torn_down: bool = False,
    ) -> None:
        """Check everything that must hold once the run has ended.

        Args:
            status: the expected exit status; None accepts any.
            needs: the need edges of the plan.
            left: steps that the run reported as not cleaned up; their processes may remain.
            exits: whether the process exits normally instead of by `os._exit`.
            internal_error: whether pytest must report an internal error; None: it may.
            stuck: steps whose thread is known to be left behind.
            torn_down: whether the session fixture must be torn down wherever it was set up.
            owner_only: whether to check how pytest itself exited, but not how workers did.
        """
        if status is not None:
            self.expect(self.status == status, f"exit status {self.status}, not {status}")
        history = [
            line
            for line in self.history
            if line.what != "exit" or line.pid == self.pid or not owner_only
        ]
        self.wrong += checker.violations(history, needs, left, stuck)
        deadline = time.monotonic() + SETTLE
        while (processes := self.processes()) and not left and time.monotonic() < deadline:
            time.sleep(0.01)
        self.expect(left or not processes, f"processes are left: {processes}")
        made = [
            path.name
            for path in self._temporary.iterdir()
            if not path.name.startswith("pytest-of-")  # of the workers; pytest keeps them
        ]
        self.expect(not made, f"temporary folders are left: {made}")
        ups, downs = self.notes("up").count("session"), self.notes("down").count("session")
        self.expect(ups == downs or not torn_down, f"{ups} fixtures set up, {downs} torn down")
        noted = any(line.what == "exit" and line.pid == self.pid for line in history)
        self.expect(noted or not exits, "pytest did not end by itself")
        failed = "INTERNALERROR" in self.output()
        self.expect(internal_error in (failed, None), f"INTERNALERROR: {failed}")

    def processes(self) -> list[str]:
        """Return the processes of this run that are still alive, wherever they were started."""
        return [repr(process) for process in psutil.process_iter() if self._is_ours(process)]

    def junit(self) -> dict[str, int]:
        """Return the counts of `report.xml`."""
        path = self.project / "report.xml"
        if not path.exists():
            return {}
        suite = ElementTree.parse(path).getroot().find("testsuite")
        assert suite is not None
        return {
            name: int(suite.attrib[name]) for name in ("tests", "errors", "failures", "skipped")
        }

    def close(self) -> None:
        """Kill all processes of the run, and remove its folder."""
        for process in psutil.process_iter():
            if self._is_ours(process):
                process.kill()
        if self._process is not None:
            if not self.ended():
                os.kill(self.pid, signal.SIGKILL)  # a forked run shows no mark in its environment
            self._process.wait()
        shutil.rmtree(self.folder)

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return (
                process.environ().get("FAULTS_MARK") == self._mark
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False

    def _variables(self) -> dict[str, str]:
        # Byte code may be written: runs then start a quarter faster, like an installed package.
        outside = ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "GITLAB_CI", "NO_COLOR", "FORCE_COLOR",
                   "PYTHONDONTWRITEBYTECODE")  # fmt: skip
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in outside and not name.startswith(("PYTEST_", "FAULTS_"))
        }
        return {
            **kept,
            "COLUMNS": "120",
            "TMPDIR": str(self._temporary),
            **({"XDG_STATE_HOME": str(self.state)} if self.state.is_dir() else {}),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(self.project)]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            fakes.HISTORY: str(self.folder / "history"),
            fakes.RELEASE: str(self.folder / "release"),
            "FAULTS_MARK": self._mark,
        }


class Stage:
    """Plays many stories at once and collects the violations of all of them.

    Args:
        tally: counts runs, faults, kills and violations.
        zygote: forks the runs; None: each run gets a new interpreter.
    """

    def __init__(self, tally: Tally, zygote: Zygote | None = None) -> None:
        self._tally = tally
        self._zygote = zygote
        self._waiting: list[tuple[Run, Story]] = []

    def add(self, name: str, story: Callable[..., Story], *args: Any, **keywords: Any) -> None:
        """Add a story: a generator of conditions to await. It is called with a run and `args`."""
        run = Run(name, self._tally, self._zygote)
        self._waiting.append((run, story(run, *args, **keywords)))

    def runs(self, at_once: int = AT_ONCE) -> Iterator[Run]:
        """Play all stories, a few at a time; yield each run when its story has ended."""
        active: list[_Told] = []
        try:
            while self._waiting or active:
                while self._waiting and len(active) < at_once:
                    active.append(_Told(*self._waiting.pop(0)))
                for told in [told for told in active if not told.goes_on()]:
                    active.remove(told)
                    self._tally.violations += len(told.run.wrong)
                    try:
                        yield told.run
                    finally:
                        told.run.close()
                time.sleep(0.005)
        finally:
            for run, story in [*((told.run, told.story) for told in active), *self._waiting]:
                story.close()
                run.close()

    def play(self, at_once: int = AT_ONCE) -> None:
        """Play all stories, a few at a time; fail with all violations."""
        __tracebackhide__ = True
        wrong: list[str] = []
        texts: list[str] = []
        total = len(self._waiting)
        for run in self.runs(at_once):
            if run.wrong:
                wrong.append(f"{run.name}: {'; '.join(run.wrong)}")
                texts.append(story_of(run))
        if wrong:
            head = f"{len(wrong)} of {total} runs are wrong:"
            pytest.fail("\n".join([head, *wrong, *texts[:_SHOWN]]))


class _Told:
    """A story that is being played."""

    def __init__(self, run: Run, story: Story) -> None:
        self.run = run
        self.story = story
        self._condition: Callable[[], Any] = lambda: True
        self._deadline = time.monotonic() + PATIENCE

    def goes_on(self) -> bool:
        """Advance the story as far as possible; return whether it is still going on."""
        try:
            while self._condition():
                self._condition = next(self.story)
                self._deadline = time.monotonic() + PATIENCE
        except StopIteration:
            return False
        if time.monotonic() > self._deadline:
            self.run.wrong.append(f"nothing happened for {PATIENCE} s: {_where(self.story)}")
            self.story.close()
            return False
        return True


def _where(story: Any) -> str:
    return f"line {story.gi_frame.f_lineno} of its story"


def story_of(run: Run) -> str:
    """Return the end of the run's history and of its outputs."""
    history = [f"{line.pid} {line.what} {' '.join(line.words)}" for line in run.history]
    outputs = [path.read_text(errors="replace") for path in sorted(run.folder.glob("output*"))]
    return "\n".join([f"--- {run.name}", *history[-60:], *(text[-3000:] for text in outputs)])
