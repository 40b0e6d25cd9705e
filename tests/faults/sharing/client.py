"""A process that plays runs on a machine of the network, and logs each call to the store.

One process waits, and forks a client for each line that it reads: a fork takes less time than an
interpreter that starts. The client then enters the network namespace of its machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import random
import signal
import sys
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import PlanError
from pytest_plan.sharing.errors import ShareError, ShareSetupError, SilentError
from pytest_plan.sharing.model import Access, Kind, Lock, Role, Row, Status
from pytest_plan.sharing.protocol import Store
from pytest_plan.sharing.urls import open_store
from tests.faults.sharing.clocks import set_apart
from tests.faults.sharing.history import End, Log, plain
from tests.faults.sharing.plants import PLANTS
from tests.sharing.runs import PROJECT, joining

KEYS = ("a", "b")
LEASE = 1.0
_PAUSE = 0.004  # seconds between two calls
_PATIENCE = 1.0
_NETWORK = 0x40000000  # CLONE_NEWNET of <sched.h>
_LOCK = Lock("device", "t")


class Client:
    """Plays one run after another, each of which does random things with the store.

    Args:
        open_: a function that opens the store.
        name: the name of the environment.
        seed: decides what it does.
        until: when it ends, in seconds of the monotonic clock.
        log: the log of its calls.
    """

    def __init__(
        self, open_: Callable[[], Store], name: str, seed: int, until: float, log: Log
    ) -> None:
        self._open = open_
        self._store = open_()
        self._name = name
        self._random = random.Random(seed)
        self._until = until
        self._log = log
        self._access: Access | None = None
        self._member = ""
        self._is_owner = False

    def play(self) -> None:
        """Join again and again."""
        while SystemClock.now() < self._until:
            # A stale epoch, a cleanup that has begun, a lock that was lost, or a silent server.
            try:
                self._live()
            except PlanError as error:
                if type(error) is ShareError:  # such as tables that were lost
                    self._store.shut()
                    self._store = self._open()

    def finish(self) -> None:
        """Join, clean up and end the environment, as the last run."""
        while True:
            with contextlib.suppress(PlanError):
                if self._join() is not Role.WAIT and self._end() and self._is_owner:
                    return
            assert SystemClock.now() < self._until, "the environment was not done in time"
            SystemClock.sleep(0.05)

    def _live(self) -> None:
        if self._join() is Role.WAIT:
            SystemClock.sleep(0.05)
            return
        while SystemClock.now() < self._until and self._act():
            pass

    def _join(self) -> Role:
        """Join as a new member; as the owner, clean up and provision."""
        asked = joining(lease=LEASE)
        self._access, self._member = None, asked.member.id
        found = self._call("join", lambda: self._store.join(self._name, asked))
        self._access = found.access
        self._is_owner = found.role in (Role.OWNER, Role.HEIR)
        if found.role is Role.HEIR:
            self._note("inherit")
            self._call("restart", lambda: self._store.restart(found.access, PROJECT))
        if self._is_owner:
            self._note("provision")
            self._publish()
            self._note("provisioned")
        return Role(found.role)

    def _act(self) -> bool:
        """Do one thing; return whether this run goes on."""
        SystemClock.sleep(_PAUSE)
        chance = self._random.random()
        if chance < 0.70:
            self._change()
        elif chance < 0.80:
            self._renew()
        elif chance < 0.84:
            self._publish() if self._is_owner else self._renew()
        elif chance < 0.86:
            SystemClock.sleep(self._random.choice([0.1, 0.3, 1.3 * LEASE]))
        elif chance < 0.87:
            return False  # it ends without a word: its lease lapses
        elif chance < 0.90:
            return not self._end()
        else:
            self._guard()
        return True

    def _change(self) -> None:
        key, access = self._random.choice(KEYS), self._at_hand()
        row = self._call("read", lambda: self._store.read(access, Kind.STATE, key), key=key)
        count, version = (json.loads(row.text)[0], row.version) if row else (0, 0)
        text = json.dumps([count + 1, uuid.uuid4().hex])
        self._call(
            "put", lambda: self._store.put(access, key, text, version),
            key=key, version=version, text=text,
        )  # fmt: skip

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
        if self._is_owner:
            return
        self._access = Access(view.environment, access.member)
        if not view.is_owner_alive:
            self._claim()

    def _end(self) -> bool:
        """Close as the owner; leave as a member, and claim if the owner is lost.

        Returns:
            Whether this run has ended.
        """
        access = self._at_hand()
        if self._is_owner:
            view = self._call("close", lambda: self._store.close(access))
            if view.status is not Status.CLOSED:
                return False
            self._note("clean")
            self._call("done", lambda: self._store.done(access))
            return True
        view = self._call("leave", lambda: self._store.leave(access, failed=False))
        if access.member not in {one.id for one in view.members}:
            return True
        self._claim()
        return False

    def _claim(self) -> None:
        """Become the owner, unless another run has."""
        access = self._at_hand()
        asked = joining().member._replace(id=access.member)
        view = self._call("claim", lambda: self._store.claim(access.environment, asked))
        if view.owner is not None and view.owner.id == access.member:
            self._access, self._is_owner = Access(view.environment, access.member), True

    def _at_hand(self) -> Access:
        assert self._access is not None
        return self._access

    def _call(self, what: str, call: Callable[[], Any], **given: Any) -> Any:
        number = self._log.begin(what, self._access, self._member, given)
        try:
            answer = call()
        except SilentError:
            raise  # its end is unknown
        except PlanError as error:
            is_refused = type(error) is not ShareError  # what a server refuses is not certain
            how = End.REFUSED if is_refused else End.UNKNOWN
            self._log.end(number, how, f"{type(error).__name__}: {error}")
            raise
        access = answer.access if what == "join" else None
        self._log.end(number, End.ANSWERED, plain(answer), access)
        return answer

    def _note(self, what: str) -> None:
        self._log.note(what, self._at_hand(), self._member)


def _main(given: dict[str, Any]) -> None:
    """Play as one client, and exit."""
    until = given["until"]
    _enter(given["namespace"])
    set_apart(given["apart"])

    def open_() -> Any:
        while True:
            try:
                store = open_store(given["url"], Path(given["folder"]), patience=_PATIENCE)
            except ShareSetupError:  # the server restarts, or the link is cut
                if SystemClock.now() >= until:
                    raise
                SystemClock.sleep(0.05)
            else:
                return PLANTS[given["plant"]](store) if given["plant"] else store

    log = Log(Path(given["log"]))
    with contextlib.suppress(ShareSetupError):
        client = Client(open_, given["name"], given["seed"], until, log)
        client.finish() if given["is_last"] else client.play()


def _enter(namespace: str) -> None:
    """Enter a network namespace; only Python 3.12 has a function for this."""
    with Path("/run/netns", namespace).open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _NETWORK):
            raise OSError(ctypes.get_errno(), f"{namespace} cannot be entered")


def _fork(given: dict[str, Any]) -> None:
    """Fork a client, and print its pid."""
    pid = os.fork()
    if pid:
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        return
    status = 1
    try:
        _main(given)
        status = 0
    except BaseException:
        Path(given["log"]).with_suffix(".error").write_text(traceback.format_exc())
    finally:
        os._exit(status)


if __name__ == "__main__":
    import psycopg  # noqa: F401 - loaded once, before clients are forked
    import redis  # noqa: F401

    import pytest_plan.sharing.stores.postgresql
    import pytest_plan.sharing.stores.redis  # noqa: F401

    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody has to wait for clients
    for line in sys.stdin:
        _fork(json.loads(line))
