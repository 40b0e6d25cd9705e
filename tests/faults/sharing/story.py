"""A random history: clients on several machines, and faults that are injected by a seed."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from pytest_plan.engine.model.clock import SystemClock
from tests.faults.sharing.checker import faults
from tests.faults.sharing.client import LEASE
from tests.faults.sharing.history import Event, History, read
from tests.faults.sharing.world import MACHINES, World, is_alive, kill

SECONDS = 4.0
_LAST = 60.0  # seconds within which the last run must have ended the environment
_SHORT, _LONG = (0.3, 0.6), (1.3, 2.0)  # in leases


class Played(NamedTuple):
    """A history that was played.

    Attributes:
        events: the calls to the store.
        injected: how many faults of each kind were injected.
        wrong: what is wrong.
    """

    events: list[Event]
    injected: Counter[str]
    wrong: list[str]


class Story:
    """Plays one history.

    Args:
        world: the world, which is used again.
        seed: decides how many clients there are, what they do, and which faults are injected.
        plant: the fault of their stores, as in `plants.PLANTS`; "" means none.
        seconds: how long clients play.
    """

    def __init__(self, world: World, seed: int, plant: str = "", seconds: float = SECONDS) -> None:
        self._world = world
        self._random = Random(seed)
        self._plant = plant
        self._seconds = seconds
        self._name = f"history {uuid.uuid4().hex}"
        self._folder = world.folder / uuid.uuid4().hex
        self._machines = list(MACHINES)[: self._random.randint(3, 6)]
        self._pids: dict[str, int] = {}
        self._clients = 0
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._losses: list[tuple[float, float]] = []
        self._injected: Counter[str] = Counter()

    def play(self) -> Played:
        """Play it, end it, and judge it."""
        self._folder.mkdir()
        until = SystemClock.now() + self._seconds
        for machine in self._machines:
            self._start(machine, until)
        self._inject(until)
        wrong = self._finish(until)
        events = read(sorted(self._folder.glob("*.log")))
        wrong += [file.read_text() for file in sorted(self._folder.glob("*.error"))]
        wrong += faults(History(events, self._losses, LEASE))
        return Played(events, self._injected, wrong)

    def _start(self, machine: str, until: float, *, is_last: bool = False) -> None:
        self._clients += 1
        self._pids[machine] = self._world.start(
            machine,
            {
                "url": self._world.url,
                "folder": str(self._folder),
                "log": str(self._folder / f"{self._clients}.log"),
                "name": self._name,
                "seed": self._random.randrange(2**32),
                "until": until,
                "plant": "" if is_last else self._plant,
                "is_last": is_last,
            },
        )

    def _inject(self, until: float) -> None:
        """Inject faults until the clients end, and undo each when it is over."""
        next_ = SystemClock.now() + self._random.uniform(0.3, 1.0)
        while (now := SystemClock.now()) < until:
            for due in [one for one in self._due if one[0] <= now]:
                self._due.remove(due)
                due[1]()
            if now >= next_:
                self._fault(until)
                next_ = now + self._random.uniform(0.2, 1.2)
            SystemClock.sleep(0.01)
        for _, undo in sorted(self._due, key=lambda one: one[0]):
            undo()

    def _fault(self, until: float) -> None:
        machine = self._random.choice(self._machines)
        bounds, how_long = self._random.choice([(_SHORT, "less"), (_LONG, "more")])
        later = SystemClock.now() + LEASE * self._random.uniform(*bounds)
        kind = self._random.choices(
            ["kill", "stop", "cut", "restart", "pause", "lose"], [6, 6, 6, 2, 1, 1]
        )[0]
        server = self._world.running
        if kind == "kill":
            kill(self._pids[machine])
            self._due.append((later, lambda: self._again(machine, until)))
        elif kind == "stop":
            self._signal(machine, signal.SIGSTOP)
            self._due.append((later, lambda: self._signal(machine, signal.SIGCONT)))
        elif kind == "cut":
            self._world.network.cut(machine)
            self._due.append((later, lambda: self._world.network.join(machine)))
        elif kind == "restart":
            server.restart()
        elif kind == "pause":
            server.pause()
            SystemClock.sleep(LEASE * self._random.uniform(*_SHORT))
            server.resume()
        else:
            self._losses.append(server.lose(everything=self._random.random() < 0.5))
        is_of_client = kind in ("stop", "cut")
        self._injected[f"{kind} for {how_long} than the lease" if is_of_client else kind] += 1

    def _again(self, machine: str, until: float) -> None:
        """Start a client again, unless another has been started already."""
        if not is_alive(self._pids[machine]):
            self._start(machine, until)

    def _signal(self, machine: str, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pids[machine], number)

    def _finish(self, until: float) -> list[str]:
        """Wait for the clients, and let a last run end the environment; return what is left."""
        wrong = []
        limit = until + _LAST
        for machine, pid in self._pids.items():
            while is_alive(pid) and SystemClock.now() < limit:
                SystemClock.sleep(0.01)
            if is_alive(pid):
                wrong.append(f"the client on {machine} has not ended")
                kill(pid)
        self._start("m1", limit, is_last=True)
        while is_alive(self._pids["m1"]):
            SystemClock.sleep(0.01)
        left = self._world.running.server.left(self._name)
        return [*wrong, *(f"left on the server: {one}" for one in left)]


def operations(events: list[Event]) -> Counter[str]:
    """Return how many calls have been answered, were refused, or have no answer."""
    return Counter(one.end.value for one in events)
