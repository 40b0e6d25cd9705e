"""Draws a random run from a seed: its plan, its faults and its signals, all as plain data."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

HOOK_KINDS = ("hook", "class")  # kinds of steps with a cleanup hook
GENERATORS = ("generator", "async generator")
KINDS = ("function", *HOOK_KINDS, *GENERATORS, "async function")
HANGS = ("wait", "spin", "block")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STEP_TIMEOUT = 1.5  # seconds, for a step that hangs
SHORT_LIMIT = 4.0  # seconds for the plan, if no timeout of a step ends a hang
T = TypeVar("T")

_PROGRAMS = {
    None: 45, "server": 20, "shell": 8, "family": 5, "stubborn": 4,
    "daemon": 10, "daemon by start": 4, "nginx": 2, "redis": 2,
}  # fmt: skip
_STEP_FAULTS = {
    None: 65, "error": 7, "error once": 8, "error in cleanup": 5, "slow cleanup": 9,
    "wait": 1.5, "spin": 1.5, "block": 1, "exit": 2, "fork": 2,
}  # fmt: skip
_TEST_FAULTS = {
    None: 62, "slow": 10, "error": 7, "fork": 7, "sys.exit in fork": 3, "exit": 3,
    "wait": 3, "spin": 3, "stubborn": 1,
}  # fmt: skip
_INJECTED = {"nothing": 30, "signal": 28, "two signals": 20, "kill": 14, "worker": 8}


@dataclass(frozen=True, slots=True)
class StepData:
    """One step: its kind of function, what it needs, what it creates, and its fault."""

    name: str
    kind: str
    needs: tuple[str, ...] | None
    program: str | None
    files: tuple[str, ...]  # "durable" or "closure": whether another process can remove the file
    fault: str | None
    late: bool  # whether the fault comes after everything was created
    attempted: bool  # whether its cleanup hook also runs after a failure
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TestData:
    """One test: the steps it uses and its fault."""

    __test__ = False
    uses: tuple[str, ...]
    fault: str | None


@dataclass(frozen=True, slots=True)
class Shot:
    """A signal: sent some seconds after an event of the history, or after the previous signal."""

    number: int
    target: str  # "owner", "group" or "worker"
    event: int  # how many events the history must have
    delay: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """A whole run."""

    seed: int
    steps: tuple[StepData, ...]
    tests: tuple[TestData, ...]
    workers: bool
    arguments: tuple[str, ...]
    is_short: bool  # whether the plan's limit may be reached
    shots: tuple[Shot, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the data for JSON."""
        return asdict(self)


def draw(seed: int) -> Drawn:
    """Return the run with this number. The same seed always gives the same run."""
    chance = random.Random(f"soak {seed}")  # the text seeds it the same in every version
    workers = chance.random() < 0.4
    steps: list[StepData] = []
    for number in range(chance.randint(2, 6)):
        steps.append(_step(chance, number, [step.name for step in steps]))
    names = [step.name for step in steps]
    tests = tuple(_test(chance, names) for _ in range(chance.randint(2, 4)))
    hangs = [step for step in steps if step.fault in HANGS and "timeout" not in step.options]
    is_short = bool(hangs) or any(test.fault in (*HANGS, "stubborn") for test in tests)
    arguments = ["-n", "2"] if workers else []
    if is_short or chance.random() < 0.3:
        arguments.append(f"--plan-limit={SHORT_LIMIT if is_short else 60}s")
    if chance.random() < 0.4:
        arguments.append(f"--plan-jobs={chance.randint(1, 3)}")
    if chance.random() < 0.3:
        arguments.append("--plan-continue-on-error")
    shots = _shots(chance, workers, events=8 * len(steps) + 2 * len(tests) + 2)
    return Drawn(seed, tuple(steps), tests, workers, tuple(arguments), is_short, shots)


def _step(chance: random.Random, number: int, before: Sequence[str]) -> StepData:
    kind = chance.choice(KINDS)
    needs = None
    if chance.random() < 0.65:
        needs = tuple(chance.sample(before, chance.randint(0, min(2, len(before)))))
    fault = _weighted(chance, _STEP_FAULTS)
    options: dict[str, Any] = {}
    if fault == "error once" or chance.random() < 0.2:
        options |= {"retries": chance.randint(1, 2), "retry_wait": 0.05}
    if fault in HANGS and chance.random() < 0.6:
        options["timeout"] = STEP_TIMEOUT
    files = tuple(chance.choices(["durable", "closure"], [3, 1], k=chance.randint(0, 2)))
    return StepData(
        name=f"s{number}",
        kind=kind,
        needs=needs,
        program=_weighted(chance, _PROGRAMS),
        files=files,
        fault=fault,
        late=chance.random() < 0.6,
        attempted=chance.random() < 0.5,
        options=options,
    )


def _test(chance: random.Random, steps: Sequence[str]) -> TestData:
    uses = chance.sample(steps, chance.randint(1, min(3, len(steps))))
    return TestData(tuple(sorted(uses)), _weighted(chance, _TEST_FAULTS))


def _shots(chance: random.Random, workers: bool, events: int) -> tuple[Shot, ...]:
    what = _weighted(chance, _INJECTED)
    event = chance.randint(1, events)
    delay = chance.choice([0.0, 0.0, 0.0, chance.uniform(0, 0.3)])
    number = chance.choice(SIGNALS)
    target = chance.choice(["owner", "owner", "group"])
    if what == "nothing" or (what == "worker" and not workers):
        return ()
    if what in ("kill", "worker"):
        return (Shot(signal.SIGKILL, "owner" if what == "kill" else "worker", event, delay),)
    first = Shot(number, target, event, delay)
    if what == "signal":
        return (first,)
    second = number if chance.random() < 0.6 else chance.choice(SIGNALS)
    gap = chance.choice([0.0, chance.uniform(0, 0.2), chance.uniform(0, 1.0)])
    return (first, Shot(second, target, event, gap))


def _weighted(chance: random.Random, weights: dict[T, Any]) -> T:
    return chance.choices(list(weights), list(weights.values()))[0]
