"""The plan of the controller, as the tests of a worker see it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from pytest_plan.engine.shared.state import State
from pytest_plan.plugin.items.verdict import Verdict
from pytest_plan.plugin.xdist.client import Link
from pytest_plan.plugin.xdist.wire import load

if TYPE_CHECKING:
    from pytest_plan.engine.model.results import StepResult

import threading
from typing import Any

from pytest_plan.engine.shared.store import Entry
from pytest_plan.plugin.xdist.wire import dump, open_value


class Remote:
    """The plan of the controller, as the tests of a worker see it."""

    def __init__(self, link: Link, begun: Callable[[Callable[[], float | None]], None]) -> None:
        self._link = link
        self._begun = begun
        self._has_begun = False
        self._deadline: float | None = None
        self._state = State(RemoteStore(link))
        self._verdicts: dict[str, Verdict | None] = {}
        self._run_id: str | None = None

    @property
    def state(self) -> State:
        """The State of the controller, live."""
        return self._state

    @property
    def run_id(self) -> str:
        """The id of the run."""
        if self._run_id is None:
            self._run_id = str(self._link.ask("run_id"))
        return self._run_id

    def ensure(self, names: Iterable[str]) -> None:
        """Wait until it is decided what becomes of these steps, and take over their variables."""
        unknown = [name for name in names if name not in self._verdicts]
        if not unknown and self._has_begun:
            return
        verdicts, variables, remaining = load(self._link.ask("ensure", unknown))
        os.environ.update(variables)
        self._verdicts.update(verdicts)
        if not self._has_begun:
            self._has_begun = True
            self._deadline = None if remaining is None else time.monotonic() + remaining
            self._begun(self.remaining)

    def verdict_on(self, name: str) -> Verdict | None:
        """Return why a test that needs the step cannot run, None when it can."""
        if name not in self._verdicts:
            verdict: Verdict | None = load(self._link.ask("verdict", name))
            return verdict
        return self._verdicts[name]

    def results(self) -> Mapping[str, StepResult]:
        """Return what each step came to."""
        results: Mapping[str, StepResult] = load(self._link.ask("results"))
        return results

    def remaining(self) -> float | None:
        """Return the seconds until the limit passes; None without a limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())


class RemoteStore:
    """The controller's store, as `State` uses it in a worker."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def read(self, key: str) -> Entry | None:
        """Return the entry of `key`, None when absent."""
        return _entry(key, self._link.ask("read", key))

    def write(self, key: str, value: Any, version: int | None, writer: str | None) -> bool:
        """Write if `version` still holds."""
        return bool(self._link.ask("write", key, dump(key, value), version))

    def remove(self, key: str, version: int, writer: str | None) -> bool:
        """Remove if `version` still holds."""
        return bool(self._link.ask("remove", key, version))

    def versions(self) -> dict[str, int]:
        """Return the version of every key at one moment."""
        versions: dict[str, int] = self._link.ask("versions")
        return versions

    def snapshot(self) -> dict[str, Any]:
        """Return all values at one moment."""
        return {key: open_value(key, data) for key, data in self._link.ask("snapshot").items()}

    def wait(self, key: str, timeout: float | None, stopping: Callable[[], bool]) -> Entry | None:
        """Return the entry once there is one; None after `timeout` seconds."""
        try:
            return _entry(key, self._link.ask("wait", key, timeout=timeout))
        except TimeoutError:
            return None

    def acquire(self, name: str, timeout: float | None, stopping: Callable[[], bool]) -> bool:
        """Take the lock `name`; False after `timeout` seconds."""
        try:
            return bool(self._link.ask("acquire", name, threading.get_ident(), timeout=timeout))
        except TimeoutError:
            return False

    def release(self, name: str, thread: int) -> None:
        """Give the lock `name` back, if that thread of this worker still holds it."""
        self._link.ask("release", name, thread)


def _entry(key: str, answer: tuple[int, bytes] | None) -> Entry | None:
    return None if answer is None else Entry(answer[0], open_value(key, answer[1]))
