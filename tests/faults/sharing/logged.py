"""A store that logs each call of a real run of pytest, as clients of histories do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pytest_plan.engine.model.errors import PlanError
from pytest_plan.sharing import urls
from pytest_plan.sharing.errors import ShareError, SilentError
from pytest_plan.sharing.model import Access, EnvironmentId, Kind
from pytest_plan.sharing.protocol import Store
from tests.faults.sharing.history import End, Log, plain
from tests.faults.sharing.plants import PLANTS

COUNTER = "count"  # the key of the State that tests increment
_LOGGED = (
    "join", "claim", "renew", "publish", "read", "put", "acquire", "release", "leave", "close",
    "restart", "done",
)  # fmt: skip
_last: list[EnvironmentId] = []  # the environment of the last call that was answered


def epoch() -> int | None:
    """Return the epoch that this process knows; None if it has not joined."""
    return _last[0].epoch if _last else None


class Logged:
    """A store that logs the calls that the checker judges, and passes on all.

    Args:
        store: the store.
        log: the log.
    """

    def __init__(self, store: Store, log: Log) -> None:
        self._store = store
        self._log = log

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if name not in _LOGGED:
            return call
        return lambda *args, **options: self._call(name, call, args, options)

    def _call(self, name: str, call: Any, args: Any, options: Any) -> Any:
        given = _given(name, args, options)
        if given is None:
            return call(*args, **options)
        access, member = _who(name, args)
        number = self._log.begin(name, access, member, given)
        try:
            answer = call(*args, **options)
        except SilentError:
            raise
        except PlanError as error:
            how = End.UNKNOWN if type(error) is ShareError else End.REFUSED
            self._log.end(number, how, f"{type(error).__name__}: {error}")
            raise
        joined = answer.access if name == "join" else None
        self._log.end(number, End.ANSWERED, plain(answer), joined)
        view = answer.view if name == "join" else answer
        if hasattr(view, "environment"):
            _last[:] = [view.environment]
        return answer


def _given(name: str, args: Any, options: Any) -> dict[str, Any] | None:
    """Return the arguments that the checker needs; None if it does not judge the call."""
    if name == "read":
        _, kind, key = args
        return {"key": key} if kind is Kind.STATE and key == COUNTER else None
    if name == "put":
        _, key, text, version = args
        return {"key": key, "text": text, "version": version} if key == COUNTER else None
    return {"anyway": True} if name == "close" and options.get("anyway") else {}


def _who(name: str, args: Any) -> tuple[Access | None, str]:
    """Return the credentials of a call, and the member that calls."""
    if name == "join":
        return None, args[1].member.id
    if name == "claim":
        return Access(args[0], args[1].id), args[1].id
    return args[0], args[0].member


def log_all(folder: Path, plant: str) -> None:
    """Let this process log the calls to all stores that it opens.

    Args:
        folder: the folder for the log.
        plant: the fault of its stores, as in `plants.PLANTS`; "" means none.
    """
    right = urls.open_store

    def open_store(*args: Any, **options: Any) -> Any:
        store = right(*args, **options)
        log = Log(folder / f"{os.getpid()}-{id(store)}.log")
        return Logged(PLANTS[plant](store) if plant else store, log)

    urls.open_store = open_store
