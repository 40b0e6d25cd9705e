"""Starts the programs of one call of a hook, and waits until they are ready."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from pytest_plan.engine.calls.body import Body, body_of
from pytest_plan.engine.calls.call import CallScope
from pytest_plan.engine.calls.undo import Undo, UndoStack
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import PlanError, describe
from pytest_plan.engine.model.secret import Masker
from pytest_plan.engine.processes.copies import call_in_original
from pytest_plan.engine.processes.marks import new_marks
from pytest_plan.engine.processes.tree import KILL, Tree
from pytest_plan.engine.shared.log import StepLog
from pytest_plan.engine.shared.programs.resources import Care
from pytest_plan.engine.shared.programs.watched import Program
from pytest_plan.engine.shared.run_facts import RunFacts

if TYPE_CHECKING:
    from pytest_plan.engine.shared.programs.readiness import Condition, Target
    from pytest_plan.engine.shared.programs.started import Command, Place, Started

T = TypeVar("T")


class Starter:
    """Starts programs for one call of a hook, and waits within the limits of the call.

    Args:
        scope: the state of the call.
        facts: the facts about the run.
        undo: the undo stack of the step.
        log: the log of the step.
    """

    def __init__(self, scope: CallScope, facts: RunFacts, undo: UndoStack, log: StepLog) -> None:
        self._scope = scope
        self._facts = facts
        self._undo = undo
        self._log = log

    def start(
        self,
        command: Command,
        ports: Mapping[str, int] | None = None,
        ready: Condition | None = None,
        timeout: float | None = None,
    ) -> Started:
        """Start a program that runs until cleanup; see `Context.start`. It may not be ready yet.

        Args:
            command: how to start it.
            ports: the free ports that it is to use, by name, of which another process may take one.
            ready: the condition that it must meet after a test has started it again; None means
                that it must listen where it listened before.
            timeout: the seconds that it may take to become ready; None means no limit of its own.

        Raises:
            PortLostError: another process listens on one of `ports`.
            RuntimeError, KeyError, OSError, PlanError: see `Context.start`.
        """
        # Imported late because most steps start no program.
        from pytest_plan.engine.shared.programs.readiness import PortLostError
        from pytest_plan.engine.shared.programs.started import Started

        facts, scope = self._facts, self._scope
        with scope.uninterrupted:
            scope.check()
            self._undo.admit(scope)
            if taken := facts.programs.taken(ports.values() if ports else ()):
                raise PortLostError.to(taken)
            self._log.write_command(command.argv, " &")
            strangers = facts.programs.strangers(scope.step, command.argv)
            marks = facts.programs.own(new_marks())
            label = f"process {command.name!r}"
            started = Started(command, self._place(command), marks, None, self._log)
            started.host, started.ports = facts.host, ports or {}
            started.condition, started.timeout = ready, timeout
            started.number = number = self._plan_tree(label, started)
            try:
                process = started.spawn()
            except BaseException:
                facts.journal.undone(number)
                raise
            scope.processes.append(process)
            program = Program(process, self._log, scope.flag, strangers, facts.clock.now())
            facts.programs.watch(scope.step, program)
            facts.programs.add_tree(scope.step, process, number)
            facts.programs.add_started(scope.step, started)
            body = body_of(started.end, facts.clock, command.stop_signal, command.grace)
            self.push(f"{label} (pid {process.pid})", body, started, number)
            if scope.is_abandoned():  # cleanup may have ended before this undo was there
                process.end(facts.clock, KILL, 0.0)
            facts.journal.tree_started(number, process.pid)
        return started

    def start_again(self, started: Started) -> None:
        """Start a program again that has ended, as it was started first. It is not watched yet.

        It gets the marks that the journal has recorded, so a later process can find it.

        Raises:
            PlanError: the step has been cleaned up, or its cleanup has begun.
            KeyError, OSError: see `Context.start`.
        """
        facts, scope = self._facts, self._scope
        self._undo.admit(scope)
        self._log.write_command(started.command.argv, " &")
        process = started.spawn()
        if started.is_over:  # the cleanup of the step has begun meanwhile
            process.end(facts.clock, KILL, 0.0)
            raise PlanError(
                f"step {scope.step!r} is being cleaned up: {started.name} was not started"
            )
        facts.journal.tree_started(started.number, process.pid, log=self._log.private_name)

    def watch_again(self, started: Started) -> None:
        """Watch a program that was started again and is ready; record the daemon that it left."""
        programs, step = self._facts.programs, self._scope.step
        now, process = self._facts.clock.now(), started.first_process
        programs.watch(step, Program(process, self._log, self._scope.flag, (), now))
        programs.add_tree(step, process, started.number)
        programs.record_daemons(step, self._facts.journal)

    def forget(self, started: Started) -> None:
        """End a program that is of no use, as if it had never been started."""
        with self._scope.uninterrupted:
            self._scope.admit()
            started.end(self._facts.clock, started.command.stop_signal, started.command.grace)
            self._undo.remove(started)
            self._facts.journal.undone(started.number)

    def wait_until_ready(
        self, target: Target, condition: Condition, timeout: float | None, what: str
    ) -> None:
        """Wait until a target meets a condition; see `readiness.wait_until_ready`."""
        from pytest_plan.engine.shared.programs.readiness import wait_until_ready

        wait_until_ready(self, target, condition, timeout, what)

    def wait(self, ask: Callable[[], T], longest: float | None, pause: float, what: str) -> T:
        """Call `ask` until it returns a true value; see `Context.wait_until`.

        Args:
            ask: the function; an exception that is no `PlanError` means "not yet".
            longest: the maximum time to wait, in seconds; None means the deadline of the call.
            pause: the seconds between two calls.
            what: the function to which the limit belongs, for messages.
        """
        begun = self._facts.clock.now()
        while True:
            if longest is not None:
                # The last call begins at the end of the time, and gets a moment, too.
                expires = max(begun + longest, self._facts.clock.now() + 1.0)
                budget = f"the timeout of {format_duration(longest)} of {what}"
                self._scope.wait_limit = (expires, budget)
            error: Exception | None = None
            try:
                value = call_in_original(self._scope.process, ask)
            except PlanError:
                raise
            except Exception as caught:
                value, error = None, caught
            with self._scope.uninterrupted:
                self._scope.wait_limit = None
                self._scope.check(error)
                now = self._facts.clock.now()
                is_ours = self._facts.programs.check_waiting(
                    self._scope.step, self._scope.flag, error,
                    now=now, provisions=self._scope.provisions, is_over=bool(value),
                )  # fmt: skip
                if value and is_ours:
                    return value
                if longest is not None and (waited := now - begun) >= longest:
                    last = f"last error: {describe(error)}" if error else "condition not met"
                    text = f"timed out after {format_duration(longest)}; {last}"
                    raise TimeoutError(text) from error
                self.pause(pause if longest is None else min(pause, longest - waited), error)

    @property
    def masker(self) -> Masker:
        """The masker for secrets."""
        return self._facts.masker

    def step_names(self) -> set[str]:
        """Return the names of the steps of the run, as they are declared and in full."""
        names = self._facts.programs.needs
        return {*names, *(name.rpartition("/")[2] for name in names)}

    def now(self) -> float:
        """Return the time on the plan's clock."""
        return self._facts.clock.now()

    def seconds_left(self) -> float | None:
        """Return the seconds until the function that is waited for must return, or None."""
        limit = self._scope.wait_limit
        ends = [at for at in (limit and limit[0], self._scope.deadline) if at is not None]
        return min(ends) - self._facts.clock.now() if ends else None

    def pause(self, seconds: float, error: BaseException | None = None) -> None:
        """Wait until the call must stop, for at most `seconds`, and raise an error if it must."""
        self._scope.pause(self._facts.clock, seconds)
        self._scope.check(error)

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self._facts.run_id

    def care(self) -> Care:
        """Return what the step offers to its resources."""
        facts = self._facts
        return Care(self._scope.step, facts.programs, facts.checks, self._log)

    def push(
        self, label: str, body: Body, tree: Tree | None = None, number: int | None = None
    ) -> None:
        """Register an undo of the call."""
        self._undo.register(Undo(self._scope.hook, label, body, self._scope, tree, number))

    def _plan_tree(self, label: str, started: Started) -> int | None:
        """Durably record that a process tree is about to start; return its number."""
        from pytest_plan.engine.shared.programs.kept import start_of

        command = started.command
        how = {
            **started.marks._asdict(),
            "signal": int(command.stop_signal),
            "grace": command.grace,
            "watch": command.watch,
            "log": self._log.private_name,
            "program": command.name,
        }
        start = start_of(started)
        return self._facts.journal.tree_planned(
            self._scope.step, self._scope.hook, label, how, start
        )

    def _place(self, command: Command) -> Place:
        """Return where a program runs; a test may change the environment before it starts again."""
        from pytest_plan.engine.shared.programs.started import Place

        env = self._facts.program_environment(
            self._scope.step, command.env, clean=command.clean_env
        )
        cwd = command.cwd
        if cwd is None:
            with contextlib.suppress(OSError):
                cwd = os.getcwd()
        return Place(dict(os.environ) if env is None else env, cwd)
