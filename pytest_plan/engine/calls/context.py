"""The Context that a hook receives as `ctx` (gsd: context.Context)."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_plan.engine.calls.body import body_of, deferred_body
from pytest_plan.engine.calls.call import CallScope
from pytest_plan.engine.calls.starting import Starter
from pytest_plan.engine.calls.undo import UndoStack, add_check, before_run
from pytest_plan.engine.definition.planned import Instance
from pytest_plan.engine.journal.null import Deferred
from pytest_plan.engine.model.durations import Duration, parse_duration
from pytest_plan.engine.model.secret import Secret
from pytest_plan.engine.processes.process import Process, ProgramFiles, arguments_of, content, spawn
from pytest_plan.engine.shared.log import StepLog
from pytest_plan.engine.shared.run_facts import RunFacts
from pytest_plan.engine.shared.state import State

if TYPE_CHECKING:
    from pytest_plan.engine.shared.programs.readiness import Ready

T = TypeVar("T")
Argv = Sequence["str | os.PathLike[str]"]


class Context:
    """The object that a hook receives as `ctx`. It handles time, programs and deferred calls.

    A duration is a number of seconds, text such as `"90s"` or `"1h 30m"`, or a `timedelta`. Every
    method that takes a duration raises `PlanDefinitionError` if the duration is invalid.

    Attributes:
        step: the step's name.
        attempt: the number of the attempt, counted from 1.
        state: the shared `State`.
    """

    __module__ = "pytest_plan"

    _instance: Instance | None = None

    def __init__(self, scope: CallScope, facts: RunFacts, undo: UndoStack, log: StepLog) -> None:
        self._scope = scope
        self._facts = facts
        self._undo = undo
        self._log = log
        self._starter = Starter(scope, facts, undo, log)
        self.step: str = scope.step
        self.attempt: int = scope.attempt
        self.state: State = State(facts.store, writer=scope.step, guard=scope)

    @property
    def worker(self) -> str | None:
        """The id of the worker for which this instance of the step is provisioned, such as `gw0`.

        It is `master` in a run without workers, and None in a step that all workers share.
        """
        return None if self._instance is None else self._instance.worker

    @property
    def param(self) -> Any:
        """The parameter of this instance of the step; None if the step has no `params`."""
        return None if self._instance is None else self._instance.param

    @property
    def reason(self) -> str | None:
        """Why cleanup runs; None in other hooks.

        It is `success`, `failure`, `cancelled` or `timeout` after a run, `retry` before another
        attempt, and `recovery` if a later process cleans up.
        """
        return self._scope.reason

    @property
    def cancelled(self) -> bool:
        """Whether the hook must stop because the plan was cancelled or a time limit was reached."""
        return self._scope.stopping()

    @property
    def deadline(self) -> float | None:
        """The time on the plan's clock by which this hook must end; None if there is no limit."""
        return self._scope.deadline

    @property
    def host(self) -> str:
        """The address under which tests reach what the step starts; a server is to listen on it.

        It is `127.0.0.1`, unless `--plan-host` or `Plan(host=...)` gives another address of this
        machine, which tests on other machines can reach.
        """
        return self._facts.host

    @property
    def tmp_path(self) -> Path:
        """The step's temporary folder, which is removed after cleanup.

        Its path is short enough for a socket. Other users, such as that of a server, may enter it.
        It is emptied before an attempt that repeats every hook.

        Raises:
            PlanError, OSError: the run is over, or the folder cannot be created.
        """
        with self._scope.uninterrupted:
            return self._facts.folders.scratch(self.step)

    @property
    def artifacts(self) -> Path:
        """The step's folder for files that outlive the run: dumps, screenshots, server logs.

        Raises:
            PlanError, OSError: the run is over, or the folder cannot be created.
        """
        with self._scope.uninterrupted:
            self._log.update()
            return self._facts.folders.artifacts(self.step)

    def remaining(self) -> float | None:
        """Return the seconds until `deadline`, never less than 0; None if there is no limit."""
        return None if self.deadline is None else max(0.0, self.deadline - self._facts.clock.now())

    def check(self) -> None:
        """Raise an error if the hook must stop.

        Raises:
            StepTimeoutError: the attempt or the cleanup exceeded its time limit.
            PlanTimeoutError: the plan exceeded its limit.
            PlanCancelledError: the plan was cancelled.
            StateError: the step was abandoned, or the process is a forked copy.
        """
        with self._scope.uninterrupted:
            self._scope.check()

    def log(self, text: object) -> None:
        """Add the line `str(text)` to the step's log. If the step fails, its last lines are shown.

        Raises:
            StateError, OSError: the step was abandoned, or the log cannot be written.
        """
        with self._scope.uninterrupted:
            self._scope.admit()
            self._log.write(f"{text}\n")

    def secret(self, value: T) -> Secret[T]:
        """Return `Secret(value)`, which is masked from now on.

        Raises:
            ValueError: `value` is text or bytes of 1 to 3 characters.
        """
        self._facts.masker.learn(secret := Secret(value))
        return secret

    def sleep(self, duration: Duration) -> None:
        """Sleep for `duration`, or until the hook must stop.

        Raises:
            PlanError: the hook must stop; see `check`.
        """
        with self._scope.uninterrupted:
            self._starter.pause(parse_duration(duration, "ctx.sleep"))
            self._facts.programs.notice(self.step)

    def wait_until(
        self, fn: Callable[[], T], timeout: Duration | None = None, every: Duration = 0.2
    ) -> T:
        """Call `fn` until it returns a true value, and return that value.

        If `fn` raises an exception other than a `PlanError`, it is called again. The exception of
        the last call becomes the cause of the `TimeoutError`. If `fn` itself takes longer than
        `timeout`, the hook is stopped as if it had exceeded its own time limit. Meanwhile the
        programs of the step, and of the steps that it needs, must keep running: see `start`.

        Args:
            fn: the function to call; it takes no arguments.
            timeout: the maximum time to wait; None means until `deadline`.
            every: the time between two calls.

        Raises:
            TimeoutError: `fn` did not return a true value within `timeout`.
            RuntimeError: a program that must keep running has ended.
            PlanError: the hook must stop; see `check`.
        """
        pause = parse_duration(every, "ctx.wait_until: every")
        longest = None if timeout is None else parse_duration(timeout, "ctx.wait_until: timeout")
        return self._starter.wait(fn, longest, pause, "ctx.wait_until")

    def watch(self, check: Callable[[], object], every: Duration = "5s") -> None:
        """Call `check` regularly while tests run; if it fails three times in a row, lose the step.

        It fails if it returns a false value, raises an exception, or takes longer than `every` and
        1 s. It may be `async def`. A retry of the step forgets it, and cleanup ends it.

        Raises:
            TypeError, PlanError: `check` is not callable, or the step was abandoned or cleaned up.
        """
        seconds = parse_duration(every, "ctx.watch: every", zero=False)
        with self._scope.uninterrupted:
            scope, facts, undo = self._scope, self._facts, self._undo
            add_check(scope, facts, undo, self._log, check=check, every=seconds)

    def run(
        self,
        argv: Argv,
        *,
        check: bool = True,
        timeout: Duration | None = None,
        input: str | None = None,
        env: Mapping[str, str | None] | None = None,
        clean_env: bool = False,
        cwd: str | os.PathLike[str] | None = None,
        user: str | int | None = None,
        group: str | int | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program until it ends; return its exit status and its output.

        The output also goes to the step's log. If the hook must stop, the program's tree is ended.
        Daemons that it leaves must keep running, as the programs of `start`, until cleanup.

        Args:
            argv: the program and its arguments, never a shell string.
            check: whether an exit status other than 0 raises an error.
            timeout: the maximum duration of the program; None means until `deadline`.
            input: the text for its standard input; None means an empty input.
            env: variables to add to the environment; a value of None removes a variable.
            clean_env: whether the program gets only the variables in `env`.
            cwd: its working directory; None means that of pytest.
            user: the user (name or id) to run it as; None means the current user.
            group: the group (name or id) to run it as; None means the primary group of `user`.

        Raises:
            subprocess.CalledProcessError: `check` is true and the exit status is not 0.
            subprocess.TimeoutExpired: the program took longer than `timeout` and was ended.
            TypeError, KeyError: `argv` is empty or a string, or `user` or `group` is unknown.
            OSError, JournalError: the program cannot be started or recorded in the journal.
            RuntimeError: another process listens on a port of `free_port` in the arguments.
            PlanError: the hook must stop; see `check`.
        """
        arguments = arguments_of(argv)
        longest = None if timeout is None else parse_duration(timeout, "ctx.run: timeout")
        with self._scope.uninterrupted, ProgramFiles(input) as (source, output, errors):
            self._scope.check()
            self._undo.admit(self._scope)
            self._log.write_command(arguments)
            before = before_run(self._scope, self._facts, self._undo, self._log, arguments)
            process = spawn(
                arguments, output=output, errors=errors, input=source,
                env=self._facts.program_environment(self.step, env, clean=clean_env),
                cwd=cwd, user=user, group=group, marks=before.left.marks,
            )  # fmt: skip
            self._scope.processes.append(process)
            try:
                status = process.finish(self._facts.clock, longest, self._scope.stopping)
            finally:
                texts = [content(file) for file in (output, errors)]
                self._log.write("".join(texts))
                self._scope.processes.remove(process)
            self._scope.check()
            now = self._facts.clock.now()
            self._facts.programs.after_run(before, process, self._log, self._scope.flag, now)
        if check and status:
            raise subprocess.CalledProcessError(status, arguments, *texts)
        return subprocess.CompletedProcess(arguments, status, *texts)

    def start(
        self,
        argv: Argv,
        *,
        env: Mapping[str, str | None] | None = None,
        clean_env: bool = False,
        cwd: str | os.PathLike[str] | None = None,
        user: str | int | None = None,
        group: str | int | None = None,
        stop_signal: int = signal.SIGTERM,
        stop_grace: Duration = "10s",
        watch: bool = True,
        ready: Ready | None = None,
        timeout: Duration | None = None,
    ) -> Process:
        """Start a program that keeps running. Its output goes to the step's log.

        Cleanup sends it `stop_signal`, and after `stop_grace` kills what is left of its whole
        process tree. The other arguments are those of `run`.

        If `watch` is true, the step fails if the program has failed when the hook returns, or ends
        during a wait and leaves no daemon running. Pass False for a program that is meant to end.
        A program may also end if the step waits for that with `Process.wait`.

        If `ready` is given, the method returns once the program meets it. It is a condition of
        `pytest_plan.steps`, such as `http(...)`, or a function that must return a true value.
        `timeout` limits this wait; None means until `deadline`.

        Raises:
            RuntimeError: another process listens on a port that the step took with `free_port`, or
                the program ended before it was ready.
            TimeoutError: it was not ready within `timeout`; the message has the last answer.
            TypeError, KeyError, OSError, JournalError, PlanError: see `run`.
        """
        # Imported late because most steps start no program.
        from pytest_plan.engine.shared.programs.readiness import condition_of, refuse_unusable
        from pytest_plan.engine.shared.programs.started import Command

        grace = parse_duration(stop_grace, "ctx.start: stop_grace")
        condition = None if ready is None else condition_of(ready)
        longest = None if timeout is None else parse_duration(timeout, "ctx.start: timeout")
        command = Command(
            arguments_of(argv), env, clean_env, cwd, user, group, stop_signal, grace, watch
        )
        if condition is not None:
            refuse_unusable(condition, repr(command.name))
        started = self._starter.start(command, ready=condition, timeout=longest)
        started.value = process = started.first_process
        if condition is not None:
            self._starter.wait_until_ready(started, condition, longest, "ctx.start")
        return process

    def defer(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call `fn(*args, **kwargs)` at cleanup, however the step ends.

        Call this as soon as a resource exists, with the function that removes it. Deferred calls
        run after the `cleanup` hook, the last one first; `fn` may be `async def`. A later process
        can make the call only if it can import `fn` and read the arguments from the journal.

        Raises:
            TypeError: `fn` is not callable.
            PlanError: the step is over, and `fn` was called at once; or this is a forked copy.
            JournalError: the journal cannot record the call, which cleanup makes anyway.
        """
        if not callable(fn):
            raise TypeError(f"ctx.defer takes a function and its arguments, not {fn!r}")
        if self._scope.is_abandoned() or self._undo.is_closed:
            fn(*args, **kwargs)
            self._undo.admit(self._scope)
        with self._scope.uninterrupted:
            self._scope.admit()
            label, number = getattr(fn, "__qualname__", None) or repr(fn), None
            call, hook = Deferred(fn, args, kwargs), self._scope.hook
            try:
                number = self._facts.journal.deferred(self.step, hook, label, call)
            finally:  # the resource exists, so it must be undone even if the journal fails
                body = deferred_body(self._undo.loop, self._facts.clock, fn, *args, **kwargs)
                self._starter.push(label, body, number=number)

    def setenv(self, name: str, value: str) -> None:
        """Set the environment variable `name` to `str(value)` until cleanup.

        Every test sees the variable, as do steps and programs that start later. In a step that is
        provisioned once per worker, only the tests of that worker and programs of its instances
        see it; in an instance for a parameter, only the tests that need it and its programs.

        Raises:
            PlanDefinitionError: another step of the plan has set the same variable.
            PlanError: the step was abandoned or has been cleaned up.
            JournalError: the journal cannot record the variable.
        """
        with self._scope.uninterrupted:
            self._undo.admit(self._scope)
            restore = self._facts.set_variable(name, str(value), self.step, self._instance)
            body, number = body_of(restore, name), None
            hook = self._scope.hook
            try:
                number = self._facts.journal.variable_set(self.step, hook, name, str(value))
            finally:
                self._starter.push(f"environment variable {name}", body, number=number)

    def free_port(self) -> int:
        """Return a TCP port that is free on `host`, never the same twice in a run.

        Raises:
            StateError: the step was abandoned.
            OSError: no port is free, or `host` is not an address of this machine.
        """
        with self._scope.uninterrupted:
            self._scope.admit()
            return self._facts.programs.took(self.step, self._facts.ports.take())


def starter_of(ctx: Context) -> Starter:
    """Return the object with which a `ctx` starts programs, for the steps of this package."""
    return ctx._starter
