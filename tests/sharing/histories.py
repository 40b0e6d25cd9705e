"""Random histories of runs that share an environment, and the checks that each must pass.

Threads play runs: they join, write, are stopped for longer than a lease, leave, claim, close and
begin again. Every call is recorded with the time before and after it. Then the history is checked:

- writes of the State are linearizable: each version follows from exactly one other, and neither a
  write nor a read goes back behind a write that had ended before it began;
- an epoch is provisioned once, and cleaned up once;
- no cleanup begins while the lease of a member holds;
- two runs never hold the lock at the same time.

    python -m tests.sharing.histories --histories 200 [--seed 7] [--only redis]
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import StateError
from pytest_plan.sharing.errors import StaleError
from pytest_plan.sharing.model import Access, EnvironmentId, Kind, Lock, Role, Row, Status
from pytest_plan.sharing.protocol import Store
from pytest_plan.sharing.urls import open_store
from tests.sharing.runs import PROJECT, joining
from tests.sharing.servers import postgresql_server, redis_server

LEASE = 1.0
_PAUSE = 0.002  # seconds between two calls of a run
_KEYS = ("a", "b")
_LOCK = Lock("device", "t")


class Event(NamedTuple):
    """A call of a run that the store has accepted.

    Attributes:
        what: the call, such as `put`.
        member: the run, by the id of its member.
        begun: the time before the call, in seconds.
        ended: the time after it.
        environment: the environment that the call has carried or returned.
        facts: what the checks of this kind of call need.
    """

    what: str
    member: str
    begun: float
    ended: float
    environment: EnvironmentId
    facts: tuple[Any, ...] = ()


class History:
    """The calls of all runs, in the order in which they ended."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def of(self, what: str) -> list[Event]:
        """Return the events of one kind."""
        return [event for event in self.events if event.what == what]


class Run(threading.Thread):
    """A run that does random things with a store until its time is over."""

    def __init__(self, store: Store, name: str, seed: int, until: float, history: History) -> None:
        super().__init__(daemon=True)
        self._store = store
        self._name = name
        self._random = random.Random(seed)
        self._until = until
        self._history = history
        self._access: Access | None = None
        self._is_owner = False
        self.error: BaseException | None = None

    def run(self) -> None:
        """Join again and again."""
        try:
            while SystemClock.now() < self._until:
                # A stale epoch, a cleanup that has begun, or a lock that was lost.
                with contextlib.suppress(StaleError, StateError):
                    self._live()
        except BaseException as error:
            self.error = error

    def _live(self) -> None:
        asked = joining(lease=LEASE)
        found = self._call("join", lambda: self._store.join(self._name, asked))
        self._access, role = found.access, found.role
        self._is_owner = role in (Role.OWNER, Role.HEIR)
        if role is Role.WAIT:
            SystemClock.sleep(0.05)
            return
        self._note("lease", found.access.environment)
        if role is Role.HEIR:
            self._note("clean", found.access.environment)
            self._call("restart", lambda: self._store.restart(found.access, PROJECT))
        if self._is_owner:
            self._note("provision", found.access.environment)
            self._publish()
        while SystemClock.now() < self._until and self._act():
            pass

    def _act(self) -> bool:
        """Do one thing; return whether this run goes on."""
        SystemClock.sleep(_PAUSE)
        chance = self._random.random()
        if chance < 0.70:
            self._change()
        elif chance < 0.80:
            self._renew()
        elif chance < 0.85:
            SystemClock.sleep(self._random.choice([0.1, 0.3, 1.3 * LEASE]))
        elif chance < 0.88:
            return False  # it is killed: its lease lapses
        elif chance < 0.92:
            return not self._end()
        else:
            self._guard()
        return True

    def _change(self) -> None:
        key = self._random.choice(_KEYS)
        access = self._at_hand()
        row = self._call("read", lambda: self._store.read(access, Kind.STATE, key), key)
        value, version = (int(row.text), row.version) if row else (0, 0)
        text = str(value + 1)
        put = lambda: self._store.put(access, key, text, version)  # noqa: E731 - as the others
        self._call("put", put, key, version, value + 1)

    def _guard(self) -> None:
        access = self._at_hand()
        if self._call("acquire", lambda: self._store.acquire(access, _LOCK)):
            SystemClock.sleep(_PAUSE)
            self._call("release", lambda: self._store.release(access, _LOCK))

    def _publish(self) -> None:
        access = self._at_hand()
        row = Row(Kind.JOURNAL, "1", "begun")
        self._call("publish", lambda: self._store.publish(access, [row]))

    def _renew(self) -> None:
        access = self._at_hand()
        view = self._call("renew", lambda: self._store.renew(access))
        if not self._is_owner:
            self._access = Access(view.environment, access.member)
            self._note("lease", view.environment)

    def _end(self) -> bool:
        """Close as the owner, or leave as a member and claim if the owner is lost."""
        access = self._at_hand()
        if self._is_owner:
            view = self._call("close", lambda: self._store.close(access))
            if view.status is not Status.CLOSED:
                return False
            self._note("clean", access.environment)
            self._call("done", lambda: self._store.done(access))
            return True
        view = self._call("leave", lambda: self._store.leave(access, failed=False))
        if access.member not in {one.id for one in view.members}:
            return True
        asked = joining().member._replace(id=access.member)
        view = self._call("claim", lambda: self._store.claim(access.environment, asked))
        if view.owner is not None and view.owner.id == access.member:
            self._access, self._is_owner = Access(view.environment, access.member), True
        return False

    def _at_hand(self) -> Access:
        assert self._access is not None
        return self._access

    def _call(self, what: str, call: Callable[[], Any], *facts: Any) -> Any:
        begun = SystemClock.now()
        result = call()
        access = result.access if what == "join" else self._at_hand()
        ended, answer = SystemClock.now(), (*facts, result)
        event = Event(what, access.member, begun, ended, access.environment, answer)
        self._history.events.append(event)
        self._last = event
        return result

    def _note(self, what: str, environment: EnvironmentId) -> None:
        """Record what the last call means; it has its times."""
        event = self._last._replace(what=what, environment=environment, facts=())
        self._history.events.append(event)


def faults(history: History) -> list[str]:
    """Return what is wrong with a history."""
    checks = (_of_provisioning, _of_leases, _of_locks, _of_state)
    return [fault for check in checks for fault in check(history)]


def _of_provisioning(history: History) -> list[str]:
    found = []
    for what in ("provision", "clean"):
        times = Counter(event.environment for event in history.of(what))
        found += [f"{what} {times[one]} times in {one}" for one in times if times[one] > 1]
    return found


def _of_leases(history: History) -> list[str]:
    """Check that the lease of a member does not hold from the beginning of a close to its end."""
    gone = {
        event.member: event.begun
        for event in (*history.of("leave"), *history.of("claim"))
        if event.member not in {one.id for one in event.facts[-1].members}
    }
    return [
        f"closed while the lease of {lease.member} held: {close}"
        for close in history.of("close")
        if close.facts[-1].status is Status.CLOSED
        for lease in history.of("lease")
        if lease.environment.id == close.environment.id
        and lease.member != close.member
        and lease.ended < close.begun
        and close.ended < min(lease.begun + LEASE, gone.get(lease.member, float("inf")))
    ]


def _of_locks(history: History) -> list[str]:
    """Check that nobody acquires the lock while it is held by a run that then releases it."""
    acquired = [event for event in history.of("acquire") if event.facts[-1]]
    found = []
    for release in history.of("release"):
        before = [
            one for one in acquired if one.member == release.member and one.ended <= release.begun
        ]
        held = max(before, key=lambda one: one.ended)
        found += [
            f"{one.member} has acquired the lock that {held.member} held: {one}"
            for one in acquired
            if one.environment.id == held.environment.id
            and one.member != held.member
            and held.ended < one.begun
            and one.ended < release.begun
        ]
    return found


def _of_state(history: History) -> list[str]:
    found = []
    ids = {event.environment.id for event in history.of("put")}
    for one in ids:
        for key in _KEYS:
            puts = [
                event
                for event in history.of("put")
                if event.environment.id == one and event.facts[0] == key and event.facts[-1]
            ]
            reads = [
                event
                for event in history.of("read")
                if event.environment.id == one and event.facts[0] == key
            ]
            found += _of_key(key, puts, reads)
    return found


def _of_key(key: str, puts: list[Event], reads: list[Event]) -> list[str]:
    """Check the writes and reads of one key in one environment.

    An heir begins with no keys again in the same environment, but versions grow on.
    """
    found = []
    after = Counter((event.environment.epoch, event.facts[1]) for event in puts)
    found += [f"{after[one]} writes of {key} follow {one}" for one in after if after[one] > 1]
    written = {event.facts[3]: event for event in puts}
    if len(written) < len(puts):
        found.append(f"two writes of {key} have the same version")
    for put in puts:
        before = written.get(put.facts[1])
        if before is not None and before.facts[2] + 1 != put.facts[2]:
            found.append(f"a write of {key} does not follow from the last value: {put}")
    for event in (*puts, *reads):
        version = event.facts[3] if event.what == "put" else _version(event)
        if version and version not in written:
            found.append(f"a value of {key} was read that nobody has written: {event}")
        later = [
            put
            for put in puts
            if put.environment.epoch == event.environment.epoch
            and put.ended < event.begun
            and put.facts[3] > version
        ]
        if later:
            found.append(f"{event.what} of {key} goes back behind {later[0]}: {event}")
    return found


def _version(read: Event) -> int:
    row = read.facts[-1]
    return row.version if row is not None else 0


def history_of(stores: list[Store], seconds: float, seed: int) -> History:
    """Return a random history of runs, one with each store, on a new environment."""
    history, name = History(), f"history {uuid.uuid4().hex}"
    until = SystemClock.now() + seconds
    runs = [
        Run(store, name, seed * 100 + number, until, history) for number, store in enumerate(stores)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
        if run.error is not None:
            raise run.error
    return history


def main() -> int:
    """Check many histories of each kind of store; return 1 if one is wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--histories", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["redis", "postgresql"])
    given = parser.parse_args()
    wrong = 0
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = {"redis": redis_server, "postgresql": postgresql_server}
        for kind, server in servers.items():
            if given.only in (None, kind):
                url = stack.enter_context(server()).url
                wrong += _check(kind, url, folder, given)
    return 1 if wrong else 0


def _check(kind: str, url: str, folder: Path, given: argparse.Namespace) -> int:
    wrong = 0
    for number in range(given.histories):
        seed = given.seed + number
        stores = [open_store(url, folder) for _ in range(3 + seed % 4)]
        history = history_of(stores, given.seconds, seed)
        for store in stores:
            store.shut()
        found = faults(history)
        wrong += bool(found)
        epochs = len({event.environment for event in history.events})
        counts = f"{len(history.events)} events, {epochs} epochs, {len(found)} faults"
        line = f"{kind} seed {seed}: {counts}"
        sys.stdout.write("\n  ".join([line, *found[:5]]) + "\n")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
