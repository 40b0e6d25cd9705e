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
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from tests.faults.sharing.checker import faults
from tests.faults.sharing.history import NEVER, End, Event, History

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
        calls: the calls to the store, by the id of the process.
        lease: the length of a lease, in seconds.
    """

    notes: list[dict[str, Any]]
    ended: list[Ended]
    faults: list[Fault]
    calls: Mapping[int, list[Event]]
    lease: float

    def of(self, what: str) -> list[dict[str, Any]]:
        """Return the notes of a kind."""
        return [one for one in self.notes if one["what"] == what]

    def holds(self, pid: int, at: float) -> bool:
        """Return whether a process certainly held its lease at a time, by its own renewals."""
        return any(
            one.ended < at < one.begun + self.lease
            for one in self.calls.get(pid, ())
            if one.what in ("join", "renew") and one.end is End.ANSWERED
        )

    def is_late(self) -> bool:
        """Return whether a process did not renew its lease in time, as on a busy machine."""
        renewals = (
            [one.begun for one in calls if one.what in ("join", "renew")]
            for calls in self.calls.values()
        )
        return any(b - a > self.lease for times in renewals for a, b in pairwise(sorted(times)))


def judged(facts: Facts, history: History) -> list[str]:
    """Return what is wrong."""
    checks = (_of_steps, _of_cleanups, _of_fenced, _of_tests, _of_statuses)
    own = [fault for check in checks for fault in check(facts)]
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


def _of_fenced(facts: Facts) -> Iterator[str]:
    """Check that no process cleans up after the store has refused to let it."""
    for one in facts.of("cleanup begun"):
        calls = facts.calls.get(one["pid"], ())
        asked = [call for call in calls if call.what == "publish" and call.begun < one["at"]]
        if asked and asked[-1].end is End.REFUSED:
            yield f"cleanup although the store had refused it: {one}"


def _of_tests(facts: Facts) -> Iterator[str]:
    """Check that no cleanup begins during a test of a process that holds its lease."""
    ended = {(one["run"], one["test"]): one["at"] for one in facts.of("test ended")}
    tests = defaultdict(list)
    for one in facts.of("test begun"):
        until = ended.get((one["run"], one["test"]), NEVER)
        for token in one["tokens"]:
            tests[token].append((one["pid"], one["at"], until))
    for one in facts.of("cleanup begun"):
        for pid, begun, until in tests[one["token"]]:
            if begun < one["at"] < until and facts.holds(pid, one["at"]):
                yield f"cleanup during a test of process {pid}, whose lease held: {one}"


def _of_statuses(facts: Facts) -> Iterator[str]:
    reports = defaultdict(list)
    for one in facts.of("report"):
        reports[one["run"]].append(one["outcome"])
    is_quiet = not facts.faults and not facts.is_late()
    for run, status, _, output in facts.ended:
        passed = reports[run].count("passed")
        machine = run.partition(" ")[0]
        if status == 0 and (passed < _TESTS or len(reports[run]) > passed):
            yield f"{run} is green, but {passed} of {_TESTS} tests have passed"
        if status > 0 and is_quiet:
            yield f"{run} has exited with {status}:\n{_tail(output)}"
        excuses = {"lose", "restart"} if status == 4 else {"lose"}
        is_hit = facts.is_late() or any(
            one.machine == machine or one.kind in excuses for one in facts.faults
        )
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
