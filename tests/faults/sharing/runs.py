"""A random history of real runs of pytest on several machines, which share an environment."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from pytest_plan.engine.model.clock import SystemClock
from tests.faults.sharing.history import Event, History, read
from tests.faults.sharing.judge import Ended, Facts, Fault, judged
from tests.faults.sharing.story import Played
from tests.faults.sharing.world import MACHINES, World, environment, kill

LEASE = 2.0
SECONDS = 4.0  # that the tests of one run take
_LONGEST = 120.0  # seconds within which all runs must have ended
_SHORT, _LONG = (0.2, 0.5), (1.5, 2.5)  # in leases
_PROJECT = Path(__file__).with_name("project")
_FILES = {"steps.py": "conftest.py", "checks.py": "test_it.py", "pytest.ini": "pytest.ini"}
KEY = "5e" * 32  # for the seals of journals


class Live(NamedTuple):
    """A run in progress.

    Attributes:
        machine: its machine.
        process: its process.
        output: the file with its output.
    """

    machine: str
    process: subprocess.Popen[bytes]
    output: Path


class Runs:
    """Plays one history of runs.

    Args:
        world: the world, which is used again.
        seed: decides how many runs there are, and which faults are injected.
        plant: the fault of their stores, as in `plants.PLANTS`; "" means none.
    """

    def __init__(self, world: World, seed: int, plant: str = "") -> None:
        self._world = world
        self._random = Random(seed)
        self._plant = plant
        self._name = f"runs-{uuid.uuid4().hex}"
        self._folder = world.folder / uuid.uuid4().hex
        self._machines = list(MACHINES)[: self._random.randint(3, 6)]
        self._live: dict[str, Live] = {}
        self._ended: list[Ended] = []
        self._faults: list[Fault] = []
        self._losses: list[tuple[float, float]] = []
        self._due: list[tuple[float, Callable[[], None]]] = []

    def play(self) -> Played:
        """Play it, end it, and judge it."""
        self._prepare()
        begun = SystemClock.now()
        for machine in self._machines:
            later = begun + self._random.uniform(0.0, 2.0)
            self._due.append((later, lambda machine=machine: self._start(machine)))  # type: ignore[misc]
        for _ in range(self._random.randint(0, 3)):
            self._due.append((begun + self._random.uniform(2.0, 9.0), self._fault))
        self._wait(begun + _LONGEST)
        self._start("m1", "last")
        self._wait(SystemClock.now() + _LONGEST)
        wrong = self._left()
        calls: dict[int, list[Event]] = {}
        for file in sorted(self._folder.glob("logs/*.log")):
            calls.setdefault(int(file.name.partition("-")[0]), []).extend(read([file]))
        events = [one for of_process in calls.values() for one in of_process]
        history = History(events, self._losses, LEASE)
        wrong += judged(Facts(self._notes(), self._ended, self._faults, calls, LEASE), history)
        if not os.environ.get("SHARE_KEEP"):
            shutil.rmtree(self._folder)
        return Played(events, Counter(one.kind for one in self._faults), wrong)

    def _prepare(self) -> None:
        for name in ("world", "logs"):
            (self._folder / name).mkdir(parents=True)
        for machine in MACHINES:
            project = self._folder / machine / "project"
            project.mkdir(parents=True)
            (self._folder / machine / "tmp").mkdir()
            for source, target in _FILES.items():
                shutil.copy(_PROJECT / source, project / target)

    def _start(self, machine: str, number: str = "") -> None:
        """Start a run on a machine, unless there is one."""
        if machine in self._live:
            return
        run = f"{machine} {number or len(self._ended)}"
        folder = self._folder / machine
        output = self._folder / f"{run}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [
                    *self._world.network.argv(machine), sys.executable, "-m", "pytest", "-p",
                    "pytest_plan", "-p", "no:cacheprovider", "--plan-environment", self._name,
                ],
                cwd=folder / "project", stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True, env=self._environment(machine, run),
            )  # fmt: skip
        self._live[machine] = Live(machine, process, output)

    def _environment(self, machine: str, run: str) -> dict[str, str]:
        return {
            **environment(machine), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CI": "",
            "PYTEST_PLAN_SHARE": self._world.url, "PYTEST_PLAN_KEY": KEY,
            "TMPDIR": str(self._folder / machine / "tmp"), "SHARE_RUN": run,
            "SHARE_LOGS": str(self._folder / "logs"), "SHARE_WORLD": str(self._folder / "world"),
            "SHARE_PLANT": self._plant, "SHARE_SECONDS": str(SECONDS if run[3:] != "last" else 0.4),
        }  # fmt: skip

    def _wait(self, until: float) -> None:
        """Do what is due until all runs have ended."""
        while self._live or self._due:
            now = SystemClock.now()
            for due in [one for one in self._due if one[0] <= now]:
                self._due.remove(due)
                due[1]()
            for machine, live in list(self._live.items()):
                if live.process.poll() is not None:
                    self._end(machine)
                elif now > until:
                    self._note("hang", machine, now)
                    kill(live.process.pid)
            SystemClock.sleep(0.02)

    def _end(self, machine: str) -> None:
        live = self._live.pop(machine)
        text = live.output.read_text(errors="replace")
        run = live.output.stem
        self._ended.append(Ended(run, live.process.wait(), SystemClock.now(), text))

    def _fault(self) -> None:
        """Inject a random fault."""
        if not self._live:
            return
        machine = self._random.choice(sorted(self._live))
        is_long = self._random.random() < 0.6
        seconds = LEASE * self._random.uniform(*(_LONG if is_long else _SHORT))
        kind = self._random.choices(list(_KINDS), list(_KINDS.values()))[0]
        now = SystemClock.now()
        if kind == "kill":
            os.kill(self._live[machine].process.pid, signal.SIGKILL)
            self._note("kill", machine, now)
        elif kind == "stop":
            self._signal(machine, signal.SIGSTOP)
            self._due.append((now + seconds, lambda: self._signal(machine, signal.SIGCONT)))
            self._note(f"stop for {_more(is_long)} than the lease", machine, now + seconds)
        elif kind == "cut":
            self._world.network.cut(machine)
            self._due.append((now + seconds, lambda: self._world.network.join(machine)))
            self._note(f"cut for {_more(is_long)} than the lease", machine, now + seconds)
        elif kind == "restart":
            self._world.running.restart()
            self._note("restart", "", SystemClock.now())
        else:
            self._losses.append(self._world.running.lose(everything=self._random.random() < 0.5))
            self._note("lose", "", SystemClock.now())

    def _note(self, kind: str, machine: str, until: float) -> None:
        self._faults.append(Fault(kind, machine, SystemClock.now(), until))

    def _signal(self, machine: str, number: int) -> None:
        live = self._live.get(machine)
        if live is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(live.process.pid, number)

    def _notes(self) -> list[dict[str, Any]]:
        file = self._folder / "world" / "notes"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]

    def _left(self) -> list[str]:
        """Wait for the processes that clean up, and return what is left."""
        until = SystemClock.now() + 30.0
        while (found := self._still_left()) and SystemClock.now() < until:
            SystemClock.sleep(0.1)
        for machine in MACHINES:
            for pid in self._world.network.processes(machine):
                kill(pid)
        return found

    def _still_left(self) -> list[str]:
        processes = [
            f"process {' '.join(_command(pid))!r} on {machine}"
            for machine in MACHINES
            for pid in self._world.network.processes(machine)
        ]
        files = [one.name for one in (self._folder / "world").iterdir() if one.name != "notes"]
        folders = [one["folder"] for one in self._notes() if Path(one.get("folder", "-")).exists()]
        rows = self._world.running.server.left(self._name)
        # If the server has lost data, only `pytest --plan-cleanup` on its machine knows the rest.
        of_steps = [] if self._losses else [*processes, *files, *folders]
        return [f"left: {one}" for one in (*of_steps, *rows)]


# How often each kind of fault is drawn.
_KINDS = {"kill": 5, "stop": 5, "cut": 5, "restart": 2, "lose": 1}


def _more(is_long: bool) -> str:
    return "more" if is_long else "less"


def _command(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path("/proc", str(pid), "cmdline").read_text().split("\0")[:6]
    return []
