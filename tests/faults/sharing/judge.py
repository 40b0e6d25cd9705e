"""Judges a history of real runs, from what their steps and tests have noted.

- A step is provisioned at most once in an epoch.
- Whatever was provisioned is cleaned up at least once, and at most once in an epoch.
- No cleanup begins while a member tests whose lease holds.
- A run is red only for its own tests, for what was injected into it, or for its cleanup.

The calls to the store are judged as those of other histories, see `checker`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.faults.sharing.checker import faults
from tests.faults.sharing.history import NEVER, End, History

_TESTS = 4


class Fault(NamedTuple):
    """A fault that was injected.

    Attributes:
        kind: its kind.
        machine: the machine; "" means the server.
        begun: when it began.
        ended: when it was over.
    """

    kind: str
    machine: str
    begun: float
    ended: float


class Ended(NamedTuple):
    """A run that has ended.

    Attributes:
        run: its machine and its number.
        status: its exit status; negative if it was killed.
        at: when it ended.
        output: its output.
    """

    run: str
    status: int
    at: float
    output: str


class Facts(NamedTuple):
    """What was seen from outside.

    Attributes:
        notes: what steps and tests have noted.
        ended: the runs.
        faults: what was injected.
        lease: the length of a lease, in seconds.
    """

    notes: list[dict[str, Any]]
    ended: list[Ended]
    faults: list[Fault]
    lease: float

    def of(self, what: str) -> list[dict[str, Any]]:
        """Return the notes of a kind."""
        return [one for one in self.notes if one["what"] == what]

    def is_excused(self, run: str, at: float) -> bool:
        """Return whether the lease of a run need not hold at a time."""
        machine = run.partition(" ")[0]
        return any(
            fault.machine in (machine, "")
            and ("more" in fault.kind or fault.kind in ("lose", "hang"))
            and fault.begun <= at
            for fault in self.faults
        )


def judged(facts: Facts, history: History) -> list[str]:
    """Return what is wrong."""
    checks = (_of_steps, _of_cleanups, _of_tests, _of_statuses)
    own = [fault for check in checks for fault in check(facts)]
    own += _of_stale_cleanups(facts, history)
    return own + [f"calls: {fault}" for fault in faults(history)]


def _of_steps(facts: Facts) -> Iterator[str]:
    if any(fault.kind == "lose" for fault in facts.faults):
        return  # epochs can begin again
    times = Counter((one["step"], one["epoch"]) for one in facts.of("provision begun"))
    for (step, epoch), count in times.items():
        if count > 1:
            yield f"{step} was provisioned {count} times in epoch {epoch}"


def _of_cleanups(facts: Facts) -> Iterator[str]:
    begun, ended = facts.of("cleanup begun"), {one["token"] for one in facts.of("cleanup ended")}
    is_lost = any(fault.kind == "lose" for fault in facts.faults)  # nobody may know any more
    for one in facts.of("provision begun"):
        if one["token"] not in ended and not is_lost:
            yield f"never cleaned up: {one}"
    times = Counter((one["token"], one["epoch"]) for one in begun)
    for (token, epoch), count in times.items():
        if count > 1:
            yield f"{token} was cleaned up {count} times in epoch {epoch}"


def _of_stale_cleanups(facts: Facts, history: History) -> Iterator[str]:
    """Check that no cleanup begins in an epoch after the next has begun.

    A run that was stopped just before a cleanup cannot know.
    """
    taken = [
        (one.ended, one.answer["epoch"])
        for one in history.events
        if one.what in ("join", "claim") and one.end is End.ANSWERED
    ]
    for one in facts.of("cleanup begun"):
        is_stale = any(at < one["at"] and epoch > (one["epoch"] or 0) for at, epoch in taken)
        if is_stale and not facts.is_excused(one["run"], one["at"]):
            yield f"cleanup in a stale epoch: {one}"


def _of_tests(facts: Facts) -> Iterator[str]:
    """Check that no cleanup begins during a test of a run that lives."""
    stops: dict[tuple[str, int], float] = {}
    for one in facts.of("test ended"):
        stops[one["run"], one["test"]] = one["at"]
        if not all(one["there"]) and not facts.is_excused(one["run"], one["at"]):
            yield f"the environment was gone during a test: {one}"
    dead = {one.run: one.at for one in facts.ended}
    killed = {
        run: fault.begun for run, at in dead.items() for fault in facts.faults
        if fault.kind == "kill" and fault.machine == run.partition(" ")[0] and fault.begun <= at
    }  # fmt: skip
    tests = defaultdict(list)
    for one in facts.of("test begun"):
        end = killed.get(one["run"], dead.get(one["run"], NEVER))
        until = stops.get((one["run"], one["test"]), end)
        for token in one["tokens"]:
            tests[token].append((one["run"], one["at"], until))
    for one in facts.of("cleanup begun"):
        for run, begun, ended in tests[one["token"]]:
            if begun < one["at"] < ended and not facts.is_excused(run, one["at"]):
                yield f"cleanup during a test of {run}: {one}"


def _of_statuses(facts: Facts) -> Iterator[str]:
    reports = defaultdict(list)
    for one in facts.of("report"):
        reports[one["run"]].append(one["outcome"])
    touched = {fault.machine for fault in facts.faults}
    for run, status, _, output in facts.ended:
        passed = reports[run].count("passed")
        machine = run.partition(" ")[0]
        if status == 0 and (passed < _TESTS or len(reports[run]) > passed):
            yield f"{run} is green, but {passed} of {_TESTS} tests have passed"
        if status > 0 and not touched:
            yield f"{run} has exited with {status}:\n{_tail(output)}"
        excuses = {"lose", "restart"} if status == 4 else {"lose"}
        is_hit = any(one.machine == machine or one.kind in excuses for one in facts.faults)
        if status > 1 and not is_hit:
            yield f"{run} has exited with {status}:\n{_tail(output)}"
        if status > 0 and (passed == _TESTS == len(reports[run])) and not is_hit:
            yield f"{run} is red, but its tests have passed:\n{_tail(output)}"
        if re.search(r"INTERNALERROR|Traceback \(most", output):
            yield f"{run} has shown an internal error:\n{_tail(output)}"
        if any(fault.kind == "hang" and fault.machine == machine for fault in facts.faults):
            yield f"{run} has not ended:\n{_tail(output)}"


def _tail(output: str) -> str:
    return "\n".join(output.splitlines()[-60:])
