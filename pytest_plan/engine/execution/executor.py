"""Runs the flows of many steps at once, in the order of a graph.

Flows are resumed under one lock, by whichever thread brings their news: the thread that ends a
call takes the next one itself, so that a chain of short steps costs no switch of threads. The
coordinator (the thread that called) delivers the events, keeps the time and advances the
escalations.
"""

from __future__ import annotations

import collections
import contextlib
import heapq
import queue
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from pytest_plan.engine.calls.call import Abandoned, Call, Ending
from pytest_plan.engine.calls.escalation import Escalation
from pytest_plan.engine.calls.threads import Threads
from pytest_plan.engine.execution.flow import Flow, Wait
from pytest_plan.engine.execution.phases import Phase, RunStatus
from pytest_plan.engine.model.clock import Clock
from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.model.events import Event, Listener, Waiting
from pytest_plan.engine.model.stop import Stop, StopKind

HEARTBEAT = 1.0  # the longest the coordinator sleeps, in seconds


@dataclass(slots=True, eq=False)
class _Active:
    """A flow that has begun and not ended: it waits for a call or for a time."""

    name: str
    flow: Flow
    since: float
    call: Call | None = None
    wake_at: float | None = None
    escalation: Escalation | None = None


class _Crash(NamedTuple):
    """The engine itself failed on a thread; the coordinator raises it."""

    error: BaseException


Inbox: TypeAlias = "queue.SimpleQueue[Event | _Crash | None]"


class Executor:
    """Runs phases one after the other.

    Args:
        status: where the run stands.
        inbox: brings events and requests to the coordinator.
        jobs: at most so many flows at the same time.
        clock: tells the time and waits.
        listeners: hear every event on the coordinating thread.
    """

    def __init__(
        self, status: RunStatus, inbox: Inbox, jobs: int, clock: Clock, listeners: list[Listener]
    ) -> None:
        self._status = status
        self._inbox = inbox
        self._jobs = jobs
        self._clock = clock
        self._listeners = listeners
        # Who asks to stop may be a signal handler: a deque needs no lock.
        self._cancels: collections.deque[str] = collections.deque()
        self._threads = Threads(self._completed, clock)
        # Everything below changes only under _lock. While it is held no user code runs and nothing
        # waits for a disk: every limit, timeout and signal goes through it.
        self._lock = threading.Lock()
        self._phase = Phase(status, {})
        self._ready: list[tuple[int, str]] = []
        self._active: dict[str, _Active] = {}
        self._looks_at = 0.0  # when the coordinator acts on the times next, by itself
        self._crash: BaseException | None = None
        self.listener_errors: list[str] = []

    def run(self, phase: Phase) -> None:
        """Run a phase to its end, whatever its steps do."""
        with self._lock:
            self._phase = phase
        self._deliver_rest()  # a cancellation that came first keeps everything from beginning
        with self._lock:
            calls = self._fill()
        self._dispatch(calls)
        while not self._is_finished():
            self._turn()
        with self._lock:
            self._active.clear()  # a phase that was left leaves nothing that could still end
        self._deliver_rest()

    def cancel(self, reason: str) -> None:
        """Ask to stop, from any thread or signal handler: nothing here takes a lock."""
        self._cancels.append(reason)
        self._inbox.put(None)

    def catch_up(self) -> None:
        """Handle what was asked while no phase ran: it belongs to the last one."""
        with self._lock:
            self._take_cancels()
        self._deliver_rest()

    @property
    def was_left(self) -> bool:
        """Whether the last phase was left before its end."""
        return self._phase.is_left

    def close(self) -> None:
        """Let the threads go."""
        self._threads.close()
        self._deliver_rest()

    def _turn(self) -> None:
        """Wait for news or the next deadline, then act on it."""
        try:
            self._listen()
        except BaseException as error:
            self._phase.interrupted(error)
        if self._crash is not None:
            raise self._crash
        self._watch()

    def _listen(self) -> None:
        try:
            message = self._clock.get(self._inbox, self._seconds_to_wait())
        except queue.Empty:
            self._emit_waiting()
            return
        self._handle(message)
        # What came meanwhile, no more: short steps cost one look at the times for many news.
        for _ in range(self._inbox.qsize()):
            self._handle(self._inbox.get())

    def _handle(self, message: Event | _Crash | None) -> None:
        if isinstance(message, _Crash):
            self._crash = message.error
        elif message is not None:
            self._tell(message)

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception as error:
                self.listener_errors.append(f"{type(event).__name__}: {describe(error)}")

    def _deliver_rest(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._handle(self._inbox.get_nowait())

    def _emit_waiting(self) -> None:
        now = self._clock.now()
        with self._lock:
            steps = tuple((active.name, now - active.since) for active in self._active.values())
        self._tell(Waiting(steps, self._phase.is_cleanup, self._phase.elapsed()))

    def _is_finished(self) -> bool:
        with self._lock:
            return self._phase.is_left or not self._phase.sorter.is_active()

    def _seconds_to_wait(self) -> float:
        now = self._clock.now()
        with self._lock:
            times = [time for active in self._active.values() for time in _times(active)]
            if self._phase.deadline is not None:
                times.append(self._phase.deadline)
            self._looks_at = min([now + HEARTBEAT, *times])
            return max(0.0, self._looks_at - now)

    def _watch(self) -> None:
        """Act on what is due: the phase's deadline, waits that are over, calls that must stop."""
        now = self._clock.now()
        with self._lock:
            self._take_cancels()  # first: calls that must stop for it are looked at below
            if self._phase.deadline is not None and now >= self._phase.deadline:
                self._phase.expired()
            calls = [
                call for active in list(self._active.values()) for call in self._wake(active, now)
            ]
            calls += self._fill()
            escalations = [
                active.escalation
                for active in self._active.values()
                if active.escalation is not None and now >= active.escalation.next_at
            ]
        self._dispatch(calls)
        for escalation in escalations:
            if escalation.advance():
                self._abandon(escalation)

    def _wake(self, active: _Active, now: float) -> list[Call]:
        stopping = self._status.is_stopping()
        if active.wake_at is not None:
            if stopping:
                return self._resume(active, self._status.stop)
            return self._resume(active, None) if now >= active.wake_at else []
        call = active.call
        if call is None or active.escalation is not None:
            return []
        if stopping and self._status.stop is not None and not call.is_shielded:
            active.escalation = self._escalation(call, self._status.stop)
        elif call.expires is not None and now >= call.expires:
            stop = Stop(StopKind.TIMEOUT, f"exceeded {call.budget}")
            active.escalation = self._escalation(call, stop)
        return []

    def _escalation(self, call: Call, stop: Stop) -> Escalation:
        return Escalation(call, stop, self._clock.now(), self._status.facts.store.wake)

    def _abandon(self, escalation: Escalation) -> None:
        stack = escalation.stack()
        with self._lock:
            active = self._active.get(escalation.call.scope.step)
            if active is None or active.call is not escalation.call:
                return
            escalation.call.abandon(escalation.call.runs_on())
            calls = self._resume(active, Abandoned(stack)) + self._fill()
        self._status.facts.store.abandon(escalation.call.runs_on())
        self._dispatch(calls)

    def _completed(self, call: Call, ending: Ending) -> Call | None:
        """Take the news that a call ended, on its thread; return what the thread does next."""
        try:
            with self._lock:
                active = self._active.get(call.scope.step)
                if active is None or active.call is not call:
                    return None  # it had been abandoned
                calls = self._resume(active, ending) + self._fill()
                if not self._active:
                    self._inbox.put(None)
            self._dispatch(calls[1:])
        except BaseException as error:
            self._inbox.put(_Crash(error))
            return None
        return calls[0] if calls else None

    def _dispatch(self, calls: list[Call]) -> None:
        for call in calls:
            self._threads.run(call)

    def _take_cancels(self) -> None:
        """Act on requests to stop, before anything else begins."""
        while self._cancels:
            self._phase.cancelled(self._cancels.popleft())

    def _fill(self) -> list[Call]:
        """Begin flows while there is room; return the calls that they ask for."""
        self._take_cancels()
        calls: list[Call] = []
        sorter = self._phase.sorter
        while sorter.is_active():
            for name in sorter.get_ready():
                heapq.heappush(self._ready, (self._phase.priority(name), name))
            if not self._ready or len(self._active) >= self._jobs:
                break
            name = heapq.heappop(self._ready)[1]
            flow = self._phase.begin(name)
            if flow is None:
                sorter.done(name)
                continue
            active = self._active[name] = _Active(name, flow, self._clock.now())
            calls += self._resume(active, None)
        return calls

    def _resume(self, active: _Active, answer: Any) -> list[Call]:
        self._take_cancels()
        active.call = active.wake_at = active.escalation = None
        try:
            effect = active.flow.send(answer)
            while isinstance(effect, Wait) and self._status.is_stopping():
                effect = active.flow.send(self._status.stop)
        except StopIteration:
            del self._active[active.name]
            self._phase.ended(active.name)
            self._phase.sorter.done(active.name)
            return []
        if isinstance(effect, Wait):
            active.wake_at = self._clock.now() + effect.seconds
            self._look_by(active.wake_at)
            return []
        active.call = effect
        if self._status.stop is not None and self._status.is_stopping() and not effect.is_shielded:
            effect.stop(self._status.stop)
        if effect.expires is not None:
            self._look_by(effect.expires)
        return [effect]

    def _look_by(self, time: float) -> None:
        """Have the coordinator act on a time that is new to it, when it would come too late."""
        if time < self._looks_at:
            self._inbox.put(None)


def _times(active: _Active) -> list[float]:
    if active.escalation is not None:
        return [active.escalation.next_at]
    if active.call is not None and active.call.expires is not None:
        return [active.call.expires]
    return [] if active.wake_at is None else [active.wake_at]
