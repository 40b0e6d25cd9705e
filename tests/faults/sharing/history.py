"""What the processes of a history have asked of a store, and its answers."""

from __future__ import annotations

import enum
import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.sharing.model import Access, Joined, Row, View

NEVER = float("inf")


class End(enum.Enum):
    """How a call has ended.

    Attributes:
        ANSWERED: the store has answered.
        REFUSED: the store has refused it, so nothing was done.
        UNKNOWN: there was no answer, or the process was killed: it may be done at any time.
    """

    ANSWERED = "answered"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Event(NamedTuple):
    """A call to the store, or what a run does because of an answer.

    Attributes:
        what: the call, such as `put`.
        member: the run, by the id of its member.
        begun: the time before the call, in seconds.
        ended: the time after it; `NEVER` if it is unknown.
        id: the id of the environment that the call has carried or returned.
        epoch: its epoch.
        end: how it has ended.
        given: the arguments that the checks of this kind of call need.
        answer: the answer.
    """

    what: str
    member: str
    begun: float
    ended: float
    id: str
    epoch: int
    end: End
    given: dict[str, Any]
    answer: Any


class History(NamedTuple):
    """What has happened.

    Attributes:
        events: the calls of all runs.
        losses: when the server has lost data: the times before it was killed and after it was up.
        lease: the length of a lease, in seconds.
    """

    events: list[Event]
    losses: list[tuple[float, float]]
    lease: float


class Log:
    """Writes the calls of one process to a file, each before it is made and after its answer."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._numbers = itertools.count(1)

    def begin(self, what: str, access: Access | None, member: str, given: dict[str, Any]) -> int:
        """Write that a call begins; return its number."""
        number = next(self._numbers)
        known = access.environment if access is not None else None
        of = [known.id, known.epoch] if known is not None else ["", 0]
        self._write([number, what, member, *of, given, SystemClock.now()])
        return number

    def end(self, number: int, how: End, answer: Any = None, access: Access | None = None) -> None:
        """Write how a call has ended; `access` is that of the answer to `join`."""
        of = [access.environment.id, access.environment.epoch] if access is not None else []
        self._write([number, how.value, answer, SystemClock.now(), *of])

    def note(self, what: str, access: Access, member: str) -> None:
        """Write what a run does now."""
        self.end(self.begin(what, access, member, {}), End.ANSWERED)

    def _write(self, line: list[Any]) -> None:
        os.write(self._file, f"{json.dumps(line)}\n".encode())


def plain(answer: Any) -> Any:
    """Return an answer of the store as JSON can hold it."""
    if isinstance(answer, Joined):
        return {**plain(answer.view), "role": answer.role.value}
    if isinstance(answer, View):
        return {
            "epoch": answer.environment.epoch,
            "status": answer.status.value,
            "owner": answer.owner.id if answer.owner is not None else "",
            "members": [one.id for one in answer.members],
        }
    if isinstance(answer, Row):
        return [answer.version, answer.text]
    return answer


def read(files: Iterable[Path]) -> list[Event]:
    """Return the events in the logs of all processes."""
    return [event for file in files for event in _events(file.read_text().splitlines())]


def _events(lines: list[str]) -> Iterable[Event]:
    begun: dict[int, list[Any]] = {}
    for line in lines:
        number, *rest = json.loads(line)
        if number not in begun:
            begun[number] = rest
            continue
        what, member, of, epoch, given, at = begun.pop(number)
        how, answer, ended, *joined = rest
        if joined:
            of, epoch = joined
        is_known = how != End.UNKNOWN.value
        yield Event(
            what, member, at, ended if is_known else NEVER, of, epoch, End(how), given, answer
        )
    for what, member, of, epoch, given, at in begun.values():
        yield Event(what, member, at, NEVER, of, epoch, End.UNKNOWN, given, None)
