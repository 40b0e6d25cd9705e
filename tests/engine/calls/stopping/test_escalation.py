"""The four stages by which a call is made to stop."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.calls.call import Call, CallScope
from pytest_plan.engine.calls.stopping.escalation import (
    ABANDON_AFTER,
    KILL_AFTER,
    TERMINATE_AFTER,
    Escalation,
)
from pytest_plan.engine.model.outcomes import Hook
from pytest_plan.engine.model.secret import Masker
from pytest_plan.engine.model.stop import Stop, StopKind
from pytest_plan.engine.shared.folders import RunFolders
from pytest_plan.engine.shared.log import StepLog
from pytest_plan.engine.shared.program_log import Copies
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import Background, Calls, Gate

STOP = Stop(StopKind.CANCEL, "enough")


class Recorder:
    """A body, a process and an interrupt that only record the calls of their methods."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.ident: int | None = None

    def perform(self, interrupt: object) -> None:
        """Record the call."""
        self.calls.note("perform")

    def stop(self) -> None:
        """Record the call."""
        self.calls.note("stop")

    def abandon(self) -> None:
        """Record the call."""
        self.calls.note("abandon")

    def thread(self) -> int | None:
        """Return a thread id."""
        return self.ident

    def signal_tree(self, number: int) -> None:
        """Record the signal."""
        self.calls.note(signal.Signals(number).name)

    def inject(self) -> None:
        """Record the call."""
        self.calls.note("inject")


@pytest.fixture
def recorder(calls: Calls) -> Recorder:
    """The recorder that the escalation acts on."""
    return Recorder(calls)


@pytest.fixture
def call(recorder: Any, tmp_path: Path) -> Call:
    """A call that has started one program."""
    scope = CallScope("db", Hook.EXEC, 1, None)
    scope.processes.append(recorder)
    scope.interrupt = recorder
    log = StepLog("db", RunFolders(lambda: tmp_path), Masker(), Copies())
    return Call(scope, recorder, log, None, "")


def test_the_stages_follow_each_other(call: Call, calls: Calls) -> None:
    """`ctx` wakes; SIGTERM at 0.1 s; SIGKILL and the interrupt at 1 s; abandoned at 3 s."""
    escalation = Escalation(call, STOP, 100.0, lambda: calls.note("wake"))
    assert escalation.next_at == 100.0
    times = []
    while not escalation.advance():
        times.append(escalation.next_at - 100.0)
        calls.note("-")
    assert calls == ["stop", "wake", "-", "SIGTERM", "-", "SIGKILL", "inject", "stop", "-"]
    assert times == pytest.approx([TERMINATE_AFTER, KILL_AFTER, ABANDON_AFTER])
    assert times == pytest.approx([0.1, 1.0, 3.0])


def test_the_first_stage_says_why(call: Call) -> None:
    """`ctx.check` raises the reason of the first request."""
    Escalation(call, STOP, 0.0, lambda: None).advance()
    Escalation(call, Stop(StopKind.LIMIT, "late"), 0.0, lambda: None).advance()
    assert call.scope.flag.stop is STOP


def test_the_stack_is_that_of_the_thread_at_work(
    call: Call, recorder: Recorder, clock: FakeClock, gate: Gate
) -> None:
    """If the body has a thread, it is the stack of that thread."""

    def stuck_right_here() -> None:
        gate.hold()

    running = Background(stuck_right_here)
    gate.wait_until_reached()
    recorder.ident = running.ident
    escalation = Escalation(call, STOP, 0.0, lambda: None)
    assert "stuck_right_here" in escalation.stack()
    gate.open()
    running.result()
    assert "has ended" in escalation.stack()
