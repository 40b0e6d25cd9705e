"""Runs the flows of many steps at once, in the order given by a graph.

When a call ends, its thread resumes the flow under the executor's lock. It then performs the next
call itself, so a chain of short steps needs no thread switch. The coordinator is the thread that
called `run`. It delivers events, enforces deadlines and advances escalations. If it is not the
thread of the listeners, it leaves the events to that thread.
"""

from __future__ import annotations

import collections
import contextlib
import heapq
import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeAlias

from pytest_plan.engine.calls.call import Abandoned, Call, Ending
from pytest_plan.engine.calls.stopping.escalation import Escalation
from pytest_plan.engine.calls.threads import Threads
from pytest_plan.engine.execution.flow import Flow, Wait
from pytest_plan.engine.execution.phases import Phase, RunStatus
from pytest_plan.engine.model.clock import Clock
from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.model.events import Event, Listener, StopRequested, Waiting
from pytest_plan.engine.model.stop import Stop, StopKind
from pytest_plan.engine.processes.copies import end_copy, getpid

HEARTBEAT = 1.0  # the maximum number of seconds that the coordinator sleeps


class _Active:
    """A flow that has begun and has not ended. It is waiting for a call or for a point in time.

    Attributes:
        name: the step's name.
        flow: the flow.
        since: the time on the plan's clock at which the flow began.
        call: the call that the flow is waiting for; None if there is none.
        wake_at: the time until which the flow is waiting; None if it is not waiting for a time.
        escalation: the escalation of `call`; None unless the call must stop.
    """

    __slots__ = ("call", "escalation", "flow", "name", "since", "wake_at")

    def __init__(self, name: str, flow: Flow, since: float) -> None:
        self.name = name
        self.flow = flow
        self.since = since
        self.call: Call | None = None
        self.wake_at: float | None = None
        self.escalation: Escalation | None = None


class _Crash(NamedTuple):
    """An error in the engine itself, on any thread. The coordinator raises it."""

    error: BaseException


Request: TypeAlias = Callable[[Phase], None]
Inbox: TypeAlias = "queue.SimpleQueue[Event | _Crash | None]"


class Executor:
    """Runs phases, one after another.

    Args:
        status: the status of the run.
        inbox: the queue of events for the coordinator. An item None only wakes the coordinator.
        jobs: the maximum number of flows that run at the same time.
        clock: the plan's clock.
        listeners: the functions to call with every event, on the coordinator's thread.

    Attributes:
        listener_errors: the exceptions that listeners raised, one line each.
        listener_exceptions: the first exception of each kind that listeners raised, by its text.
    """

    def __init__(
        self, status: RunStatus, inbox: Inbox, jobs: int, clock: Clock, listeners: list[Listener]
    ) -> None:
        self._status = status
        self._inbox = inbox
        self._jobs = jobs
        self._clock = clock
        self._listeners = listeners
        # A signal handler may append to a deque, because that needs no lock.
        self._requests: collections.deque[Request] = collections.deque()
        self._threads = Threads(self._completed, clock)
        # The attributes below change only under _lock. Every limit, timeout and signal needs the
        # lock, so its holder must not run user code or wait for the disk.
        self._lock = threading.Lock()
        self._phase = Phase(status, {})
        self._ready: list[tuple[int, str]] = []
        self._active: dict[str, _Active] = {}
        self._looks_at = 0.0  # when the coordinator checks deadlines next, unless woken
        self._crash: BaseException | None = None
        # Set while another thread than that of the listeners runs a phase.
        self._told: Callable[[], None] | None = None
        self._coordinator: int | None = None
        self._deferred: collections.deque[Event] = collections.deque()
        self.listener_errors: list[str] = []
        self.listener_exceptions: dict[str, Exception] = {}

    def run(self, phase: Phase, told: Callable[[], None] | None = None) -> None:
        """Run a phase until all its flows have ended, or until the phase is left early.

        Args:
            phase: the phase.
            told: a function to call when there are events that the thread of the listeners must
                deliver with `catch_up`; None means that this is that thread.
        """
        with self._lock:
            self._phase = phase
        self._told = told
        self._coordinator = None if told is None else threading.get_ident()
        try:
            self._run()
        finally:
            self._told = self._coordinator = None

    def _run(self) -> None:
        self._deliver_rest()  # events that preceded the phase, such as a request to stop
        with self._lock:
            calls = self._fill()
        self._dispatch(calls)
        while not self._is_finished():
            self._turn()
        with self._lock:
            self._active.clear()  # ignore calls that end after the phase was left
        self._deliver_rest()

    def request(self, request: Request) -> None:
        """Call `request` with the phase that is running, as soon as possible.

        Any thread or signal handler may call this method, because it takes no lock.
        """
        self._requests.append(request)
        self._inbox.put(None)

    def catch_up(self) -> None:
        """Apply to the last phase any requests that came while no phase was running."""
        with self._lock:
            self._take_requests()
        self._deliver_rest()

    def unchanging(self) -> AbstractContextManager[object]:
        """Return a context in which no step changes; no code of users may run in it."""
        return self._lock

    @property
    def was_left(self) -> bool:
        """Whether the last phase was left early."""
        return self._phase.is_left

    def close(self) -> None:
        """End the threads, and deliver the remaining events."""
        self._threads.close()
        self._deliver_rest()

    def _turn(self) -> None:
        """Wait for a message or the next deadline, then handle it."""
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
        # Handle a whole batch before `_watch` checks deadlines, which is faster for short steps.
        # Later messages wait for the next turn, so that they do not delay deadlines.
        for _ in range(self._inbox.qsize()):
            self._handle(self._inbox.get())

    def _handle(self, message: Event | _Crash | None) -> None:
        if isinstance(message, _Crash):
            self._crash = message.error
        elif message is not None:
            self._tell(message)

    def _tell(self, event: Event) -> None:
        if self._told is not None and self._coordinator == threading.get_ident():
            self._deferred.append(event)
            self._told()
            return
        process = getpid()
        for listener in self._listeners:
            try:
                listener(event)
            except BaseException as error:
                end_copy(process, error)
                if not isinstance(error, Exception):
                    raise
                text = describe(error)
                self.listener_errors.append(f"{type(event).__name__}: {text}")
                self.listener_exceptions.setdefault(text, error)
            else:
                end_copy(process, None)

    def _deliver_rest(self) -> None:
        while self._deferred and self._coordinator != threading.get_ident():
            self._tell(self._deferred.popleft())
        if self._coordinator not in (None, threading.get_ident()):
            return  # the inbox is that of another thread, which runs a phase
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
        """Handle the phase's deadline, waits that are over, and calls that must stop."""
        now = self._clock.now()
        with self._lock:
            self._take_stops()  # do this first, because calls are checked below
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
        elif (limit := call.time_limit()) is not None and now >= limit[0]:
            stop = Stop(StopKind.TIMEOUT, f"exceeded {limit[1]}")
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
        """Resume, on the call's thread, the flow whose call has ended; return the next call."""
        try:
            with self._lock:
                active = self._active.get(call.scope.step)
                if active is None or active.call is not call:
                    call.came_back()
                    return None  # the call was abandoned
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

    def _take_requests(self) -> None:
        """Handle requests to stop. This runs before any flow is begun or resumed."""
        while self._requests:
            self._requests.popleft()(self._phase)

    def _take_stops(self) -> None:
        """Handle requests to stop and the deadline. This runs before any flow is begun."""
        self._take_requests()
        if self._phase.deadline is not None and self._clock.now() >= self._phase.deadline:
            self._phase.expired()

    def _fill(self) -> list[Call]:
        """Begin flows that are ready, up to the limit `jobs`; return the calls that they yield."""
        self._take_stops()
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
        self._take_requests()
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
        """Wake the coordinator if it would otherwise not check deadlines until after `time`."""
        if time < self._looks_at:
            self._inbox.put(None)


def _times(active: _Active) -> list[float]:
    if active.escalation is not None:
        return [active.escalation.next_at]
    if active.call is not None and (limit := active.call.time_limit()) is not None:
        return [limit[0]]
    return [] if active.wake_at is None else [active.wake_at]


def emitter(inbox: Inbox, listeners: list[Listener]) -> Callable[[Event], None]:
    """Return the function that delivers events to the coordinator."""

    def emit(event: Event) -> None:
        # If there are no listeners, an event would only wake the coordinator and delay the steps.
        if listeners or isinstance(event, StopRequested):
            inbox.put(event)

    return emit
