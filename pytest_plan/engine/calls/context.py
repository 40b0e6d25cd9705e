"""What a running hook gets: time, cancellation, processes, undo (gsd: context.Context)."""

from __future__ import annotations

import math
import os
import secrets
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pytest_plan.engine.calls.body import Body, body_of
from pytest_plan.engine.calls.call import CallScope
from pytest_plan.engine.calls.undo import Undo, UndoStack
from pytest_plan.engine.journal.null import Deferred
from pytest_plan.engine.model.durations import Duration, format_duration, parse_duration
from pytest_plan.engine.model.errors import PlanError, describe
from pytest_plan.engine.processes.process import Process, ProgramFiles, content, spawn
from pytest_plan.engine.processes.tree import KILL, Leftovers, Tree
from pytest_plan.engine.shared.log import StepLog
from pytest_plan.engine.shared.run_facts import RunFacts
from pytest_plan.engine.shared.state import State

T = TypeVar("T")
Argv = Sequence["str | os.PathLike[str]"]


class Context:
    """What a running hook gets as `ctx`.

    Attributes:
        step: name of the step.
        attempt: the attempt, counted from 1.
        state: the shared `State`.
    """

    __module__ = "pytest_plan"

    def __init__(
        self,
        scope: CallScope,
        facts: RunFacts,
        undo: UndoStack,
        log: StepLog,
    ) -> None:
        self._scope = scope
        self._facts = facts
        self._undo = undo
        self._log = log
        self.step: str = scope.step
        self.attempt: int = scope.attempt
        self.state: State = State(facts.store, writer=scope.step, guard=scope)

    @property
    def reason(self) -> str | None:
        """Why cleanup runs: `success failure cancelled timeout retry`; None in other hooks."""
        return self._scope.reason

    @property
    def cancelled(self) -> bool:
        """Whether the hook should stop: the plan was cancelled, or the time is up."""
        return self._scope.stopping()

    @property
    def deadline(self) -> float | None:
        """When this hook must have ended, as a time of the plan's clock; None without a limit."""
        return self._scope.deadline

    @property
    def tmp_path(self) -> Path:
        """A folder for this step alone, gone after cleanup.

        It is short enough for a socket and another user may pass through it, so that a server
        that refuses root can live below it. Empty at the start of an attempt that repeats
        every hook.
        """
        with self._scope.uninterrupted:
            return self._facts.folders.scratch(self.step)

    @property
    def artifacts(self) -> Path:
        """A folder for what should outlive the run: dumps, screenshots, server logs."""
        with self._scope.uninterrupted:
            return self._facts.folders.artifacts(self.step)

    def remaining(self) -> float | None:
        """Return the seconds until `deadline`, never negative; None without a limit."""
        deadline = self._scope.deadline
        return None if deadline is None else max(0.0, deadline - self._facts.clock.now())

    def check(self) -> None:
        """Raise when the hook should stop.

        Raises:
            StepTimeoutError: the attempt took longer than the step's `timeout`.
            PlanTimeoutError: the plan's limit has passed.
            PlanCancelledError: the plan was cancelled.
        """
        with self._scope.uninterrupted:
            self._scope.check()

    def log(self, text: object) -> None:
        """Add a line to the step's log; its tail is shown when the step fails.

        Raises:
            StateError: the step was abandoned meanwhile.
        """
        with self._scope.uninterrupted:
            self._scope.admit()
            self._log.write(f"{text}\n")

    def sleep(self, duration: Duration) -> None:
        """Wait; raise as `check` does as soon as the hook should stop."""
        seconds = parse_duration(duration, "ctx.sleep")
        with self._scope.uninterrupted:
            self._pause(seconds)

    def wait_until(
        self, fn: Callable[[], T], timeout: Duration | None = None, every: Duration = 0.2
    ) -> T:
        """Call `fn` until it returns something true, and return that.

        An exception of `fn` counts as "not yet"; the last one is the cause of the timeout.

        Args:
            fn: called without arguments.
            timeout: the longest to wait; None waits until `deadline`.
            every: the time between two calls.

        Raises:
            TimeoutError: `timeout` has passed.
            RuntimeError: a program that this hook started with `start` ended with an error.
            PlanError: as `check`.
        """
        pause = parse_duration(every, "ctx.wait_until: every")
        longest = None if timeout is None else parse_duration(timeout, "ctx.wait_until: timeout")
        begun = self._facts.clock.now()
        while True:
            value, error = _attempt(fn)
            if value:
                return value
            with self._scope.uninterrupted:
                left = self._refuse_to_wait(begun, longest, error)
                self._pause(min(pause, left), error)

    def run(
        self,
        argv: Argv,
        *,
        check: bool = True,
        timeout: Duration | None = None,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        user: str | int | None = None,
        group: str | int | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; its output goes to the step's log and is returned.

        Whatever it started is ended with it when the hook must stop.

        Args:
            argv: the program and its arguments, never a shell string.
            check: whether an exit status other than 0 raises.
            timeout: the longest it may take; None means until the hook's deadline.
            input: text for its standard input, which is empty otherwise.
            env: its whole environment; None means ours.
            cwd: its working directory; None means ours.
            user: run as this user (name or id); None means as ours.
            group: run with this group; None means the user's own.

        Raises:
            subprocess.CalledProcessError: it failed and `check` is true.
            subprocess.TimeoutExpired: it took longer than `timeout`; it has been ended.
            OSError: it cannot be started.
            PlanError: as `check`.
        """
        arguments = _argv(argv)
        longest = None if timeout is None else parse_duration(timeout, "ctx.run: timeout")
        with self._scope.uninterrupted, ProgramFiles(input) as (source, output, errors):
            self._scope.check()
            self._log.write(f"$ {shlex.join(arguments)}\n")
            process = spawn(
                arguments, output=output, errors=errors, input=source,
                env=self._facts.program_environment(self.step, env),
                cwd=cwd, user=user, group=group, cookie=self._cookie(),
            )  # fmt: skip
            self._scope.processes.append(process)
            try:
                status = self._finish(process, longest)
            finally:
                texts = [content(file) for file in (output, errors)]
                self._log.write("".join(texts))
                self._scope.processes.remove(process)
            self._scope.check()
        if check and status:
            raise subprocess.CalledProcessError(status, arguments, *texts)
        return subprocess.CompletedProcess(arguments, status, *texts)

    def start(
        self,
        argv: Argv,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        user: str | int | None = None,
        group: str | int | None = None,
        stop_signal: int = signal.SIGTERM,
        stop_grace: Duration = "10s",
    ) -> Process:
        """Start a program that stays; at cleanup it is ended with everything it started.

        Its output goes to the step's log.

        Args:
            argv: the program and its arguments, never a shell string.
            env: its whole environment; None means ours.
            cwd: its working directory; None means ours.
            user: run as this user (name or id); None means as ours.
            group: run with this group; None means the user's own.
            stop_signal: what asks it to end.
            stop_grace: how long it may take to end before it is killed.

        Raises:
            OSError: it cannot be started.
            PlanError: as `check`.
        """
        arguments = _argv(argv)
        grace = parse_duration(stop_grace, "ctx.start: stop_grace")
        clock = self._facts.clock
        with self._scope.uninterrupted:
            self._scope.check()
            self._log.write(f"$ {shlex.join(arguments)} &\n")
            name, cookie = Path(arguments[0]).name, secrets.token_hex(16)
            number = self._plan_tree(f"end {name}", cookie, stop_signal, grace)
            try:
                with self._log.path.open("ab") as output:
                    process = spawn(
                        arguments, output=output, errors=subprocess.STDOUT,
                        env=self._facts.program_environment(self.step, env),
                        cwd=cwd, user=user, group=group, cookie=cookie,
                    )  # fmt: skip
            except BaseException:
                self._facts.journal.undone(number)
                raise
            self._scope.processes.append(process)
            body = body_of(process.end, clock, stop_signal, grace)
            self._push(f"end {name} (pid {process.pid})", body, process, number)
            self._facts.journal.tree_started(number, process.pid)
        return process

    def defer(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call `fn(*args, **kwargs)` at cleanup, however the step ends.

        Register the undo the moment a thing exists. The last registered runs first, after the
        step's `cleanup` hook.

        Raises:
            StateError: the step was abandoned meanwhile; `fn` has been called at once.
        """
        if not callable(fn):
            raise TypeError(f"ctx.defer needs a function and its arguments, not {fn!r}")
        if self._scope.is_abandoned():
            fn(*args, **kwargs)
            self._scope.admit()
        with self._scope.uninterrupted:
            label = getattr(fn, "__qualname__", None) or repr(fn)
            call = Deferred(fn, args, kwargs)
            number = None
            try:
                number = self._facts.journal.deferred(self.step, self._scope.hook, label, call)
            finally:  # what it undoes is there, whether or not it can be written down
                self._push(label, body_of(fn, *args, **kwargs), number=number)

    def setenv(self, name: str, value: str) -> None:
        """Set an environment variable until cleanup, for the tests of every process.

        Steps that start later and programs started from now on see it too.

        Raises:
            PlanDefinitionError: another step has set the same variable.
        """
        with self._scope.uninterrupted:
            self._scope.admit()
            self._facts.variables.set(name, str(value), self.step)
            body, number = body_of(self._facts.variables.restore, name), None
            try:
                number = self._facts.journal.variable_set(
                    self.step, self._scope.hook, name, str(value)
                )
            finally:
                self._push(f"restore ${name}", body, number=number)

    def free_port(self) -> int:
        """Return a TCP port that is free on 127.0.0.1, never the same twice in a run."""
        with self._scope.uninterrupted:
            return self._facts.ports.take()

    def _cookie(self) -> str:
        """Return the cookie of what this hook runs; daemons that carry it end at cleanup."""
        if self._scope.cookie is None:
            cookie = self._scope.cookie = secrets.token_hex(16)
            left = Leftovers(cookie)
            body = body_of(left.end, self._facts.clock, signal.SIGTERM, 2.0)
            label = "end what its programs left running"
            number = self._plan_tree(label, cookie, signal.SIGTERM, 2.0)
            self._push(label, body, left, number)
        return self._scope.cookie

    def _plan_tree(self, label: str, cookie: str, number: int, grace: float) -> int | None:
        how = {"cookie": cookie, "since": time.time(), "signal": int(number), "grace": grace}
        return self._facts.journal.tree_planned(self.step, self._scope.hook, label, how)

    def _push(
        self, label: str, body: Body, tree: Tree | None = None, number: int | None = None
    ) -> None:
        self._undo.push(Undo(self._scope.hook, label, body, self._scope, tree, number))

    def _pause(self, seconds: float, error: BaseException | None = None) -> None:
        flag = self._scope.flag
        with flag.condition:
            self._facts.clock.wait_for(flag.condition, flag.is_raised, seconds)
        self._check(error)

    def _check(self, cause: BaseException | None) -> None:
        try:
            self._scope.check()
        except PlanError as stop:
            raise stop from cause

    def _refuse_to_wait(
        self, begun: float, longest: float | None, error: BaseException | None
    ) -> float:
        """Raise when waiting has no point any more; return how long it may go on."""
        self._check(error)
        for process in self._scope.processes:
            if status := process.poll():
                text = f"{Path(process.args[0]).name!r} ended with {status}"
                raise RuntimeError(f"{text} while step {self.step!r} waited for it") from error
        waited = self._facts.clock.now() - begun
        if longest is not None and waited >= longest:
            last = "" if error is None else f"; the last error was {describe(error)}"
            text = f"step {self.step!r} waited {format_duration(longest)} in vain{last}"
            raise TimeoutError(text) from error
        return math.inf if longest is None else longest - waited

    def _finish(self, process: Process, longest: float | None) -> int:
        try:
            return process.wait(longest)
        except BaseException:
            process.end(self._facts.clock, signal.SIGTERM, 1.0)
            raise
        finally:
            if self._scope.stopping():
                process.end(self._facts.clock, KILL, 0.0)


def _attempt(fn: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    try:
        return fn(), None
    except PlanError:
        raise
    except Exception as error:
        return None, error


def _argv(argv: Argv) -> list[str]:
    if isinstance(argv, (str, bytes)) or not argv:
        raise TypeError(f"a program is a list such as ['prog', 'argument'], not {argv!r}")
    return [os.fspath(part) for part in argv]
