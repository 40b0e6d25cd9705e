"""The controller's end of the line to one worker, and what it answers from.

`receive` runs in execnet's receiver thread, which also delivers the worker's test reports: it
does dictionary work and sends, and never raises (an exception would close the channel).
"""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_plan.engine.model.errors import StateError, describe
from pytest_plan.plugin.items.verdict import Verdict
from pytest_plan.plugin.xdist.pending import Parked

if TYPE_CHECKING:
    from pytest_plan.plugin.run.host import Host
    from pytest_plan.plugin.xdist.shared_store import SharedStore

_PARKED = object()


class Desk:
    """What the controller can tell its workers once the plan has begun.

    Args:
        host: the run.
        store: the State.
    """

    def __init__(self, host: Host, store: SharedStore) -> None:
        self.host = host
        self.store = store
        # Written by the main thread in `decide` alone, each a new object: readers need no lock.
        self._verdicts: Mapping[str, Verdict | None] | None = None
        self.results = pickle.dumps({})

    def decide(self, names: Iterable[str]) -> None:
        """Settle what becomes of tests that need these steps, and answer who waits for it."""
        self.results = pickle.dumps(dict(self.host.results()))
        self._verdicts = {
            **(self._verdicts or {}),
            **{name: self.host.verdict_on(name) for name in names},
        }
        self.store.parking.sweep()

    def answer(self, names: list[str]) -> bytes | None:
        """Return verdicts and environment variables, None while one is not decided."""
        verdicts = self._verdicts
        if verdicts is None or any(name not in verdicts for name in names):
            return None
        variables = self.host.run.facts.variables.current()
        decided = {name: verdicts[name] for name in names}
        return pickle.dumps((decided, variables, self.host.remaining()))


class Endpoint:
    """One worker, as the controller hears it.

    Args:
        worker: its id, as xdist names it.
        channel: made for it alone.
        desk: returns the desk, None before the plan has begun.

    Attributes:
        gone: set when the worker's process has ended, however it did.
        pid: its process id; None until it said hello, so also without the plugin.
        stuck: the test that it could not end when the limit had passed, None when it could.
        is_ending: whether it runs no test any more.
    """

    def __init__(self, worker: str, channel: Any, desk: Callable[[], Desk | None]) -> None:
        self.worker = worker
        self.gone = threading.Event()
        self.pid: int | None = None
        self.stuck: str | None = None
        self.is_ending = False
        self._channel = channel  # execnet keeps it weakly; we must not
        self._desk = desk
        self._needs: dict[str, Any] | None = None
        self._acquiring: dict[int, tuple[str, int]] = {}  # receiver thread only
        self._handlers: Mapping[str, Callable[..., Any]] = {
            "read": lambda desk, _, key: (desk.store.read_data(key),),
            "write": self._write,
            "remove": lambda desk, _, key, version: (desk.store.remove(key, version, None),),
            "versions": lambda desk, _: (desk.store.versions(),),
            "snapshot": lambda desk, _: (desk.store.snapshot_data(),),
            "wait": self._wait,
            "acquire": self._acquire,
            "release": self._release,
            "forget": self._forget,
            "ensure": self._ensure,
            "verdict": lambda desk, _, name: (pickle.dumps(desk.host.verdict_on(name)),),
            "results": lambda desk, _: (desk.results,),
            "run_id": lambda desk, _: (desk.host.run_id,),
        }
        channel.setcallback(self.receive, endmarker=None)

    def take_needs(self) -> dict[str, Any] | None:
        """Return what the worker's tests need, once; None when it has not said so."""
        needs, self._needs = self._needs, None
        return needs

    def stop(self) -> None:
        """Ask the worker to end now, as after Ctrl-C."""
        self._send(0, True, "stop")

    def receive(self, message: tuple[Any, ...] | None) -> None:
        """Handle a message; None says that the worker is gone."""
        if message is None:
            self._end()
            return
        number, what, *arguments = message
        try:
            if what == "hello":
                self.pid = arguments[0]
            elif what == "need":
                self._needs = arguments[0]
            elif what == "stuck":
                self.stuck = arguments[0]
            elif what == "ending":
                self.is_ending = True
            else:
                self._handle(number, what, arguments)
        except StateError as error:
            self._send(number, False, str(error))
        except Exception as error:
            self._send(number, False, f"the controller failed at {what!r}: {describe(error)}")

    def _handle(self, number: int, what: str, arguments: list[Any]) -> None:
        desk = self._desk()
        if desk is None:
            raise StateError("the plan has not begun: nothing of it can be asked yet")
        answer = self._handlers[what](desk, number, *arguments)
        if answer is not None:
            self._send(number, True, answer[0])

    def _write(
        self, desk: Desk, number: int, key: str, data: bytes, version: int | None
    ) -> tuple[bool]:
        return (desk.store.write_data(key, data, version),)

    def _wait(self, desk: Desk, number: int, key: str) -> None:
        self._park(desk, number, lambda: desk.store.read_data(key))

    def _acquire(self, desk: Desk, number: int, name: str, thread: int) -> None:
        store, worker = desk.store, self.worker
        store.refuse_again(name, worker, thread)
        self._acquiring[number] = (name, thread)
        self._park(desk, number, lambda: store.try_acquire(name, worker, thread) or None)

    def _release(self, desk: Desk, number: int, name: str, thread: int) -> tuple[None]:
        desk.store.release_held(name, (self.worker, thread))
        self._acquiring = {
            request: wanted for request, wanted in self._acquiring.items() if wanted[0] != name
        }
        return (None,)

    def _forget(self, desk: Desk, number: int, request: int) -> None:
        name, thread = self._acquiring.pop(request, ("", 0))
        is_answered = not desk.store.parking.forget(self.worker, request)
        if name and is_answered:
            # It was granted, but nobody was waiting any more.
            desk.store.release_held(name, (self.worker, thread))

    def _ensure(self, desk: Desk, number: int, names: list[str]) -> None:
        self._park(desk, number, lambda: desk.answer(names))

    def _park(self, desk: Desk, number: int, ready: Callable[[], Any]) -> None:
        desk.store.parking.add(Parked(self.worker, number, ready, self._send))

    def _send(self, number: int, done: bool, answer: Any) -> None:
        # The worker may have gone since it asked.
        with contextlib.suppress(OSError):
            self._channel.send((number, done, answer))

    def _end(self) -> None:
        desk = self._desk()
        try:
            if desk is not None:
                desk.store.free(self.worker)
        finally:
            self.gone.set()
