"""Stops programs of steps for tests, and starts them again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_plan.engine.definition.names import worker_of
from pytest_plan.engine.model.errors import StateError, describe
from pytest_plan.engine.model.outcomes import Hook, StepOutcome

if TYPE_CHECKING:
    from pytest_plan.engine.calls.starting import Starter
    from pytest_plan.engine.execution.run import Run
    from pytest_plan.engine.shared.programs.started import Started

_TIMEOUT = 60.0  # seconds until a program must be ready again, if neither it nor its step has one
_WHAT = "plan.program(...).start()"


class ProgramControl:
    """Stops and starts programs in the process that owns the plan; any thread may use it.

    Args:
        run: the run.
        lose: a function to call with the step, the program, its exit status and a text, if a
            program that a test has stopped cannot be started again.
    """

    def __init__(self, run: Run, lose: Callable[[str, str, int | None, str], None]) -> None:
        self._run = run
        self._lose = lose
        self._lock = threading.Lock()  # held during a request, so that there is one at a time

    def control(self, action: str, step: str, name: str | None) -> str:
        """Perform a request of a test; see `PlanView.control`."""
        if self._run.facts.is_copied():
            raise StateError("a forked copy of the process cannot stop or start programs")
        with self._lock:
            if action == "restore":
                self._restore(step)
                return ""
            started = self._find(step, name)
            if action == "start":
                self._start(step, started)
            elif action != "find":
                self._end(started, kill=action == "kill")
            return started.command.name

    def _find(self, step: str, name: str | None) -> Started:
        found = [one for one in self._run.facts.programs.started(step) if _is_there(one)]
        if not found:
            raise KeyError(self._none(step))
        known = ", ".join(repr(one.command.name) for one in found)
        chosen = [one for one in found if name in (None, one.command.name)]
        if not chosen:
            raise KeyError(f"step {step!r} has started no program {name!r}; its programs: {known}")
        if len(chosen) > 1 and name is None:
            raise KeyError(f"step {step!r} has started several programs: {known}; name one of them")
        if len(chosen) > 1:
            raise KeyError(
                f"step {step!r} has started several programs {name!r}; start each in its own step"
            )
        chosen[0].note_listened()
        return chosen[0]

    def _none(self, step: str) -> str:
        step_run = self._run.step_runs.get(step)
        if step_run is not None and step_run.outcome is StepOutcome.REUSED:
            return (
                f"step {step!r} is reused, and no program is running of which the journal records "
                "that ctx.start or service has started it; run without --plan-reuse"
            )
        return f"step {step!r} has started no program with ctx.start or service"

    def _end(self, started: Started, *, kill: bool) -> None:
        """Stop a program, or kill it; do nothing if it is not running."""
        from pytest_plan.engine.processes.tree import KILL

        if not started.is_running():
            return
        started.is_stopped = True
        started.process.may_end = True
        command = started.command
        signal, grace = (KILL, 0.0) if kill else (command.stop_signal, command.grace)
        started.process.end(self._run.clock, signal, grace)

    def _start(self, step: str, started: Started) -> None:
        """Start a program again, and wait until it is ready; otherwise it stays stopped."""
        from pytest_plan.engine.shared.programs.readiness import PortLostError
        from pytest_plan.engine.shared.programs.started import Listening

        if started.is_running():
            raise RuntimeError(f"{started.name} of step {step!r} is running; stop it first")
        if started.refusal is not None:
            raise RuntimeError(
                f"{started.name} of step {step!r} can be stopped but not started, because the "
                f"journal has no record of how an earlier run started it: {started.refusal}; run "
                "without --plan-reuse"
            )
        started.is_stopped = True
        starter, timeout = self._starter(step), started.timeout or self._timeout(step)
        try:
            starter.start_again(started)
            starter.wait_until_ready(started, started.condition or Listening(), timeout, _WHAT)
        except PortLostError as error:
            self._end(started, kill=True)
            raise RuntimeError(str(error)) from None
        except BaseException:
            self._end(started, kill=True)
            raise
        starter.watch_again(started)
        started.is_stopped = False

    def _restore(self, wanted: str) -> None:
        """Start the programs that tests have stopped; if that fails, the step is lost.

        Args:
            wanted: their step; or `@` and a worker, for those of its instances and of steps that
                all workers share.
        """
        for step, started in self._run.facts.programs.stopped():
            if wanted == step or (wanted[0] == "@" and worker_of(step) in (None, wanted[1:])):
                self._start_or_lose(step, started)

    def _start_or_lose(self, step: str, started: Started) -> None:
        try:
            self._start(step, started)
        except Exception as error:
            started.is_stopped = False
            if started.is_over:
                return  # cleanup has begun meanwhile
            how = f"{started.name}, which a test has stopped, was not started again: "
            self._lose(step, started.command.name, started.process.status(), how + describe(error))

    def _starter(self, step: str) -> Starter:
        from pytest_plan.engine.calls.call import CallScope
        from pytest_plan.engine.calls.starting import Starter

        step_run = self._run.step_runs[step]
        scope = CallScope(step, Hook.EXEC, 1, None)
        return Starter(scope, self._run.facts, step_run.undo, step_run.log)

    def _timeout(self, step: str) -> float:
        return self._run.step_runs[step].planned.options.timeout or _TIMEOUT


def _is_there(started: Started) -> bool:
    """Return whether a program is running, or should be."""
    return started.is_stopped or started.is_running() or not started.process.may_end
