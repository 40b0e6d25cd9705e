"""The rules by which a store changes a record. `stores/rules.lua` has the same ones, for Redis.

Each function changes the record that it is given, or raises `Refusal` and changes nothing.
"""

from __future__ import annotations

import json

from pytest_plan.sharing.errors import Refusal
from pytest_plan.sharing.model import (
    Access,
    EnvironmentId,
    Joining,
    Lock,
    Member,
    Project,
    Role,
    Status,
)
from pytest_plan.sharing.rules.record import MARK_KEPT, Moment, Record, Seat


def join(
    record: Record | None, joining: Joining, moment: Moment, new_id: str
) -> tuple[Record, Role]:
    """Let a run join; return the record, which is another one if the environment begins.

    Args:
        record: the environment; None if there is none.
        joining: the request.
        moment: when it is made.
        new_id: the random id of the environment, if it begins.
    """
    if record is None or record.status == Status.DONE.value:
        return _begin(record, joining, moment, new_id), Role.OWNER
    is_open = record.status != Status.CLOSED.value
    if role := _role_of(record, joining.member.id):
        _seat(record, joining.member, moment)
        return record, role
    if record.owner_lives(moment) or record.living(moment):
        if record.status != Status.OPEN.value:
            return record, Role.WAIT  # also with another plan, which can begin afterwards
        _compare(record, joining.project)
        record.joins += 1
        _seat(record, joining.member, moment)
        return record, Role.MEMBER
    if not record.published and is_open:
        return _begin(record, joining, moment, new_id), Role.OWNER
    if not set(record.project.steps) & set(joining.project.steps):
        _compare(record, joining.project)
    record.epoch += 1
    record.status, record.caretaker = Status.CLOSED.value, False
    record.members, record.locks = {}, {}
    record.joins, record.runs, record.failures = 1, joining.runs, 0
    _own(record, joining.member, moment)
    return record, Role.HEIR


def _role_of(record: Record, member: str) -> Role | None:
    """Return the role of a run that joins again, because the answer to its first call was lost."""
    is_open = record.status != Status.CLOSED.value
    if member not in record.members or record.caretaker:
        return None
    if record.owner == member:
        return Role.OWNER if is_open else Role.HEIR
    return Role.MEMBER if is_open else None


def _begin(old: Record | None, joining: Joining, moment: Moment, new_id: str) -> Record:
    is_kept = old is not None and (
        old.status != Status.DONE.value or moment.now - old.done_at < MARK_KEPT
    )
    record = Record(
        id=new_id,
        epoch=old.epoch + 1 if old is not None and is_kept else 1,
        lease=round(joining.lease * 1000),
        runs=joining.runs,
        fingerprint=joining.project.fingerprint,
        steps=json.dumps(joining.project.steps),
        joins=1,
        begun_at=moment.now,
        version=old.version if old is not None else 0,  # listeners poll it: it never decreases
    )
    _own(record, joining.member, moment)
    return record


def _compare(record: Record, project: Project) -> None:
    if record.fingerprint != project.fingerprint:
        raise Refusal("project", theirs=record.project.steps, ours=project.steps)


def _seat(record: Record, member: Member, moment: Moment) -> None:
    record.members[member.id] = Seat(json.dumps(member), moment.now + record.lease)


def _own(record: Record, member: Member, moment: Moment) -> None:
    record.owner = member.id
    record.beats += 1
    _seat(record, member, moment)


def check(record: Record | None, environment: EnvironmentId) -> Record:
    """Refuse an environment that is unknown or done, or has another epoch."""
    if record is None or record.id != environment.id or record.status == Status.DONE.value:
        raise Refusal("unknown")
    if record.epoch != environment.epoch:
        raise Refusal("epoch", id=record.id, epoch=record.epoch)
    return record


def check_member(record: Record | None, access: Access) -> Record:
    """Refuse a caller that has no seat."""
    found = check(record, access.environment)
    if access.member not in found.members:
        raise Refusal("member", id=found.id, epoch=found.epoch)
    return found


def check_writer(record: Record | None, access: Access) -> Record:
    """Refuse a member, but not the owner, once the cleanup has begun."""
    found = check_member(record, access)
    if found.status == Status.CLOSED.value and found.owner != access.member:
        raise Refusal("closed")
    return found


def check_owner(record: Record | None, access: Access) -> Record:
    """Refuse a caller that is not the owner."""
    found = check(record, access.environment)
    if found.owner != access.member:
        raise Refusal("owner", id=found.id, epoch=found.epoch)
    return found


def renew(record: Record | None, access: Access, moment: Moment) -> Record:
    """Renew the lease of a member or of the owner."""
    known = access.environment
    if record is None or record.id != known.id or record.status == Status.DONE.value:
        raise Refusal("unknown")
    seat = record.members.get(access.member)
    is_owner = record.owner == access.member
    if seat is None or (is_owner and record.epoch != known.epoch):
        kind = "member" if record.epoch == known.epoch else "epoch"
        raise Refusal(kind, id=record.id, epoch=record.epoch)
    seat.until = moment.now + record.lease
    record.beats += is_owner
    return record


def claim(
    record: Record | None, environment: EnvironmentId, member: Member, moment: Moment
) -> Record:
    """Make the caller the owner if the owner's lease has lapsed."""
    found = check(record, environment)
    if found.owner_lives(moment):
        return found
    found.members.pop(found.owner, None)
    _drop_locks(found, {found.owner})
    found.epoch += 1
    found.caretaker = True
    _own(found, member, moment)
    return found


def leave(record: Record | None, access: Access, moment: Moment, *, failed: bool) -> Record:
    """Let a member leave if the owner's lease holds; let the owner resign."""
    found = check_member(record, access)
    if found.owner != access.member and not found.owner_lives(moment):
        return found
    del found.members[access.member]
    _drop_locks(found, {access.member})
    found.failures += failed
    if found.owner == access.member:
        found.owner = ""
    return found


def end_joining(record: Record | None, environment: EnvironmentId) -> Record:
    """Let nobody join any more, also if the caller is no member."""
    found = check(record, environment)
    if found.status == Status.OPEN.value:
        found.status = Status.ENDING.value
    return found


def close(record: Record | None, access: Access, moment: Moment, *, anyway: bool) -> Record:
    """Begin the cleanup if nobody has to be waited for."""
    found = check_owner(record, access)
    is_open = found.status == Status.OPEN.value and not found.caretaker
    is_expecting = is_open and found.joins < found.runs
    if not anyway and (is_expecting or found.living(moment)):
        return found
    found.status = Status.CLOSED.value
    living = set(found.living(moment))
    lapsed = found.members.keys() - living - {found.owner}
    for key in lapsed:
        del found.members[key]
    _drop_locks(found, lapsed)
    return found


def restart(record: Record | None, access: Access, project: Project) -> Record:
    """Open an environment that an heir has cleaned up."""
    found = check_owner(record, access)
    if found.status != Status.CLOSED.value or found.caretaker:
        raise Refusal("status", status=found.status, cure="only an heir opens it again")
    found.status = Status.OPEN.value
    found.published = False
    found.locks = {}
    found.fingerprint, found.steps = project.fingerprint, json.dumps(project.steps)
    return found


def done(record: Record | None, access: Access, moment: Moment) -> Record:
    """Leave only the mark of an environment that is cleaned up."""
    found = check_owner(record, access)
    if found.status != Status.CLOSED.value:
        raise Refusal("status", status=found.status, cure="close it before it is done")
    found.status, found.done_at = Status.DONE.value, moment.now
    found.owner, found.published = "", False
    found.members, found.locks = {}, {}
    return found


def acquire(record: Record | None, access: Access, lock: Lock, moment: Moment) -> bool:
    """Give the caller a lock that nobody holds; return whether it has it now."""
    found = check_writer(record, access)
    holder = found.locks.get(lock.name)
    if holder == f"{access.member} {lock.thread}":
        raise Refusal("held", lock=lock.name)
    if holder is not None and _holds(found, holder, moment):
        return False
    found.locks[lock.name] = f"{access.member} {lock.thread}"
    return True


def release(record: Record | None, access: Access, lock: Lock) -> Record:
    """Release a lock that the caller holds."""
    found = check(record, access.environment)
    if found.locks.get(lock.name) != f"{access.member} {lock.thread}":
        raise Refusal("lost", lock=lock.name)
    del found.locks[lock.name]
    return found


def _holds(record: Record, holder: str, moment: Moment) -> bool:
    seat = record.members.get(holder.partition(" ")[0])
    return seat is not None and moment.lives(seat)


def _drop_locks(record: Record, members: set[str]) -> None:
    record.locks = {
        name: holder
        for name, holder in record.locks.items()
        if holder.partition(" ")[0] not in members
    }
