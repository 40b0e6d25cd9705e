"""The record of a shared environment: all of it but its rows. A store keeps it as JSON text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from pytest_plan.sharing.errors import Refusal
from pytest_plan.sharing.model import EnvironmentId, Member, Project, Status, View

FORMAT = 1  # of the records, rows and scripts; another one is refused
MARK_KEPT = 24 * 60 * 60 * 1000  # ms for which the mark of an environment that is done is kept


class Moment(NamedTuple):
    """When a rule is applied.

    Attributes:
        now: the time of the store, in milliseconds. No client's clock has any part in it.
        lives: returns whether the lease of a member in a record holds.
    """

    now: int
    lives: Callable[[Seat], bool]


@dataclasses.dataclass(slots=True)
class Seat:
    """A member in a record.

    Attributes:
        member: the fields of `Member`, as JSON text.
        until: the end of its lease, in milliseconds of the store's time.
    """

    member: str
    until: int

    @property
    def who(self) -> Member:
        """The member."""
        return Member(*json.loads(self.member))


@dataclasses.dataclass(slots=True)
class Record:
    """A shared environment. Times are in milliseconds of the store's time.

    Attributes:
        id: its random id.
        epoch: its epoch.
        status: the value of its `Status`.
        owner: the id of the member that owns it; "" if there is none.
        caretaker: whether the owner has claimed it from a lost one, and provisions nothing.
        beats: how often the owner has renewed its lease.
        lease: the length of a lease.
        runs: how many runs must join before it can be closed; 0 if none must.
        joins: how many have joined.
        failures: how many have left with a failure.
        fingerprint: the fingerprint of the plan.
        steps: the names of the plan's steps, as JSON text.
        version: the version of the last row that was written.
        published: whether there are rows.
        begun_at: when it began.
        done_at: when it was done; 0 if it is not.
        members: all members, the owner included.
        locks: the holder of each lock: the id of its member, a space, and its thread.
        format: `FORMAT`.
    """

    id: str
    epoch: int
    lease: int
    runs: int
    fingerprint: str
    steps: str
    status: str = Status.OPEN.value
    owner: str = ""
    caretaker: bool = False
    beats: int = 0
    joins: int = 0
    failures: int = 0
    version: int = 0
    published: bool = False
    begun_at: int = 0
    done_at: int = 0
    members: dict[str, Seat] = dataclasses.field(default_factory=dict)
    locks: dict[str, str] = dataclasses.field(default_factory=dict)
    format: int = FORMAT

    @property
    def project(self) -> Project:
        """The plan whose steps are provisioned."""
        return Project(self.fingerprint, tuple(json.loads(self.steps)))

    def owner_lives(self, moment: Moment) -> bool:
        """Return whether the owner's lease holds."""
        return self.owner in self.members and moment.lives(self.members[self.owner])

    def living(self, moment: Moment) -> list[str]:
        """Return the ids of the other members whose lease holds, sorted."""
        return sorted(
            key for key, seat in self.members.items() if key != self.owner and moment.lives(seat)
        )

    def as_text(self) -> str:
        """Return the record as JSON text."""
        return json.dumps(dataclasses.asdict(self))


def record_of(text: str) -> Record:
    """Return the record that `Record.as_text`, or the script of Redis, has written.

    Raises:
        Refusal: another version of pytest-plan has written it.
    """
    found: dict[str, Any] = json.loads(text)
    if found.get("format") != FORMAT:
        raise Refusal("format", found=found.get("format"), known=FORMAT)
    seats = {key: Seat(**seat) for key, seat in found.pop("members").items()}
    return Record(**found, members=seats)


def view_of(name: str, record: Record, moment: Moment) -> View:
    """Return the view of a record."""
    owner = record.members.get(record.owner)
    is_done = record.status == Status.DONE.value
    return View(
        environment=EnvironmentId(name, record.id, record.epoch),
        status=Status(record.status),
        owner=None if owner is None else owner.who,
        is_owner_alive=record.owner_lives(moment),
        is_caretaker=record.caretaker,
        beats=record.beats,
        members=tuple(record.members[key].who for key in record.living(moment)),
        lease=record.lease / 1000,
        runs=record.runs,
        joins=record.joins,
        failures=record.failures,
        project=record.project,
        age=max(0, moment.now - record.begun_at) / 1000,
        done_ago=max(0, moment.now - record.done_at) / 1000 if is_done else None,
    )
