"""Tests of a member stop and start programs of the owner: they ask it, through keys of the State.

Each request is a key that only its member and the owner use: the member writes the request, and the
owner replaces it by the answer. No listing of the State shows these keys. With PYTEST_PLAN_KEY, a
request through a server is sealed, so that the URL alone does not give the right to stop a program.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import StateError, describe
from pytest_plan.engine.model.secret import KEY_VARIABLE
from pytest_plan.plugin.run.environments.sharing.trust.seals import RowSeals
from pytest_plan.sharing.errors import ShareError
from pytest_plan.sharing.model import Kind, News, Row
from pytest_plan.sharing.protocol import ABSENT

if TYPE_CHECKING:
    from pytest_plan.engine.journal.seal import Key
    from pytest_plan.plugin.items.program import Control
    from pytest_plan.plugin.run.environments.sharing.link import Link

__tracebackhide__ = True  # as in engine/shared/state.py
_PREFIX = "\x1fprogram "  # a control character, which no key of a user begins with by chance
_ACTIONS = ("find", "stop", "kill", "start", "restore")
_STOPPING = ("stop", "kill")
_LEAST_SILENCE = 5.0  # seconds; the owner renews a shorter lease just in time
_ERRORS = {one.__name__: one for one in (KeyError, RuntimeError, StateError, TimeoutError)}


def is_request(key: str) -> bool:
    """Return whether a key of the State is a request, or its answer."""
    return key.startswith(_PREFIX)


class ProgramRequests:
    """The requests of a member.

    Args:
        link: the part of this run in the environment.
        key: the key that seals requests.
    """

    def __init__(self, link: Link, key: Key) -> None:
        self._link = link
        self._seals = _seals(link, key)
        self._numbers = itertools.count(1)
        self.stopped: set[str] = set()  # the steps of which tests have stopped a program

    def control(self, action: str, step: str, name: str | None) -> str:
        """Let the owner control a program; see `PlanView.control`.

        Raises:
            RuntimeError: the owner or the server does not answer, or the environment is lost.
        """
        if action in _STOPPING:
            self.stopped.add(step)
        elif action in ("start", "restore"):
            self.stopped.discard(step)
        key = f"{_PREFIX}{self._link.access.member} {next(self._numbers)}"
        try:
            answer = self._ask(key, json.dumps([action, step, name]))
        except ShareError as error:
            raise RuntimeError(str(error)) from None
        kind, text = json.loads(answer)
        if kind:
            raise _ERRORS[kind](text)
        return str(text)

    def _ask(self, key: str, request: str) -> str:
        store, access = self._link.store, self._link.access
        asked = Row(Kind.STATE, key, request)
        if self._seals is not None:
            asked = self._seals.seal(asked)
        version = store.put(access, key, asked.text, ABSENT)
        try:
            return self._await_answer(key, version)
        finally:
            with contextlib.suppress(ShareError):
                row = store.read(access, Kind.STATE, key)
                if row is not None:
                    store.remove(access, key, row.version)

    def _await_answer(self, key: str, version: int) -> str:
        """Return the answer to a request; wait as long as the owner lives."""
        link = self._link
        longest = max(link.view.lease, _LEAST_SILENCE)
        found: list[str] = []
        beats, since = link.view.beats, SystemClock.now()

        def is_over() -> bool:
            nonlocal beats, since
            row = link.call(lambda store, access: store.read(access, Kind.STATE, key))
            if row is not None and row.version != version:
                found.append(row.text)
            if link.view.beats != beats:
                beats, since = link.view.beats, SystemClock.now()
            is_silent = SystemClock.now() > since + longest
            return bool(found) or link.trouble is not None or row is None or is_silent

        link.wait(is_over, lambda: None)
        if found:
            return found[0]
        silent = f"the owner {link.owner} has not answered for {format_duration(longest)}"
        raise RuntimeError(link.trouble or silent)


class ProgramAnswers:
    """Performs the requests of members, as the owner.

    If a member ends that has stopped a program, the program is started again.

    Args:
        link: the part of this run in the environment.
        key: the key with which requests are sealed.
        control: the function that controls a program of this run.
        is_shared: a function that returns whether a step is one that the owner provisions for all.
        mask: a function that masks the secrets in a text.
    """

    def __init__(
        self,
        link: Link,
        key: Key,
        control: Control,
        is_shared: Callable[[str], bool],
        mask: Callable[[str], str],
    ) -> None:
        self._link = link
        self._seals = _seals(link, key)
        self._control = control
        self._is_shared = is_shared
        self._mask = mask
        self._lock = threading.Lock()  # guards _seen and _stopped
        self._seen: set[str] = set()
        self._stopped: dict[str, set[str]] = {}  # by member: the steps

    def on_news(self, news: News) -> None:
        """Begin to perform new requests, each on a thread, because that takes time."""
        keys = [key for kind, key in news.keys if kind is Kind.STATE and is_request(key)]
        if news.is_everything:
            with contextlib.suppress(ShareError):
                keys = list(
                    filter(
                        is_request, self._link.call(lambda store, access: store.versions(access))
                    )
                )
        with self._lock:
            keys = [key for key in keys if key not in self._seen]
            self._seen.update(keys)
        for key in keys:
            self._begin(self._perform, key)
        if self._stopped:
            self._look_for_members()

    def _look_for_members(self) -> None:
        living = {one.id for one in self._link.view.members}
        with self._lock:
            known = self._stopped.keys() & self._link.members.keys()  # not one that is just joining
            gone = [self._stopped.pop(one) for one in known - living]
        for step in itertools.chain(*gone):
            self._begin(self._restore, step)

    def _begin(self, target: Callable[[str], None], argument: str) -> None:
        threading.Thread(target=target, args=(argument,), name="plan-program", daemon=True).start()

    def _restore(self, step: str) -> None:
        with contextlib.suppress(Exception):  # a program that does not start is a lost step
            self._control("restore", step, None)

    def _perform(self, key: str) -> None:
        link = self._link
        with contextlib.suppress(ShareError):  # then the member learns that nobody answers
            row = link.call(lambda store, access: store.read(access, Kind.STATE, key))
            if row is not None:
                answer = json.dumps(self._answer(key.split(" ")[1], row))
                link.store.put(link.access, key, answer, row.version)

    def _answer(self, member: str, row: Row) -> tuple[str, str]:
        """Return the name of an error, "" for none, and a text."""
        try:
            opened = row if self._seals is None else self._seals.open(row)
            if opened is None:
                raise RuntimeError(
                    f"the owner {self._link.member} does not control programs for a run with "
                    f"another {KEY_VARIABLE}; set it to the same secret in all runs"
                )
            action, step, name = _checked(json.loads(opened.text))
            if not self._is_shared(step):
                raise KeyError(f"step {step!r} is none that this run provisions for others")
            if action in _STOPPING:
                with self._lock:
                    self._stopped.setdefault(member, set()).add(step)
            text = self._control(action, step, name)
            if action == "restore":
                with self._lock:
                    self._stopped.get(member, set()).discard(step)
        except Exception as error:
            if type(error).__name__ in _ERRORS and error.args:
                return type(error).__name__, self._mask(str(error.args[0]))
            return RuntimeError.__name__, self._mask(describe(error))
        return "", text


def _checked(request: Any) -> tuple[str, str, str | None]:
    action, step, name = request
    if action not in _ACTIONS or not isinstance(step, str) or not isinstance(name, str | None):
        raise ValueError("not a request")
    return action, step, name


def _seals(link: Link, key: Key) -> RowSeals | None:
    """Return the seals of requests; None if runs have no key in common, or need none."""
    if link.is_local or key.given is None:
        return None
    return RowSeals(link.access.environment, key, is_local=False)
