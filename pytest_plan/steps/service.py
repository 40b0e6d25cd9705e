"""Starts a program on free ports, and waits until it is ready."""

from __future__ import annotations

import functools
import operator
import os
import re
import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pytest_plan.engine.calls.context import Context, starter_of
from pytest_plan.engine.model.durations import Duration, parse_duration
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.processes.addresses import netloc
from pytest_plan.engine.processes.process import arguments_of
from pytest_plan.engine.shared.programs.placeholders import FIRST, filled, ports_named
from pytest_plan.engine.shared.programs.readiness import (
    Condition,
    PortLostError,
    Ready,
    Target,
    condition_of,
    refuse_unusable,
)
from pytest_plan.engine.shared.programs.started import Command, Started
from pytest_plan.steps.attach import attach as use
from pytest_plan.steps.attach import attached
from pytest_plan.steps.ready.tcp import tcp

_STARTS = 3  # how often a program is started that loses its port to another process
_CAUSE_LINES = 3
_IN_USE = re.compile(r"address (is )?(already )?in use|EADDRINUSE", re.IGNORECASE)


@dataclass(frozen=True)
class Service:
    """A program that `service` has started, or the server that is used in its place.

    Attributes:
        host: the host on which it answers; `ctx.host` if `service` has started it.
        port: its port for `{port}`, or else its first one; None if it has none.
        ports: all its ports, by name; that of `{port}` is `port`.
        url: the URL `http://HOST:PORT` of `port`, or the URL of the server that is used in its
            place; None if it has no port.
        pid: the process id of the program; None for a server that is used in its place.
    """

    __module__ = "pytest_plan.steps"

    host: str
    port: int | None
    ports: Mapping[str, int]
    url: str | None
    pid: int | None


def service(
    ctx: Context,
    argv: Sequence[str | os.PathLike[str]],
    *,
    ready: Ready | None = None,
    timeout: Duration | None = None,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    user: str | int | None = None,
    attach: str | None = None,
) -> Service:
    """Start a program that serves tests, and wait until it is ready. Cleanup ends it.

    In the arguments and in the values of `env`, `{port}` is replaced by a free port, `{port:NAME}`
    by another one, and `{host}` by `ctx.host`. If another process takes a port first, the program
    is started again with other ports, up to three times in all.

    Args:
        ctx: the `ctx` of the hook.
        argv: the program and its arguments, never a shell string.
        ready: the condition that it must meet, or a function that must return a true value and
            takes no argument or the `Service`; None means that it accepts connections on each of
            its ports.
        timeout: the maximum time until it is ready; None means the time limit of the step.
        env: variables to add to the environment; a value of None removes a variable.
        cwd: its working directory; None means that of pytest.
        user: the user (name or id) to run it as; None means the current user.
        attach: the name of an environment variable. If it has the URL of a server, that server is
            used: nothing is started, and cleanup leaves it alone.

    Raises:
        PlanDefinitionError: an argument is invalid; nothing was started.
        TimeoutError: the program was not ready within `timeout`; the message has the last answer.
        RuntimeError: the program has ended, or another process answers on its port.
        KeyError, OSError, JournalError, PlanError: see `Context.start`.
    """
    longest = None if timeout is None else parse_duration(timeout, "service: timeout", zero=False)
    wanted = Wanted(argv, env, cwd, user)
    server = attached(attach)
    condition = wanted.condition(ready)
    if server is not None:
        ports = dict.fromkeys(wanted.ports[:1] or [FIRST], server.port)
        server.value = value = Service(server.host, server.port, ports, server.url, None)
        server.ports = ports
        use(ctx, server, None if ready is None else condition, longest)
        return value
    return start(ctx, wanted, condition, longest)


class Wanted:
    """A program to start, with placeholders in its arguments and its environment.

    Args:
        argv: the program and its arguments.
        env: variables to add to the environment; a value of None removes a variable.
        cwd: its working directory; None means that of pytest.
        user: the user (name or id) to run it as; None means the current user.
        stop_signal: the signal that asks it to stop.
        cause: a regular expression for a line that says why it has ended; an error has the first
            such line, and two after it. None means that there is none.

    Attributes:
        name: the name of the executable.
        ports: the names of the ports that it needs.

    Raises:
        PlanDefinitionError, TypeError: an argument is invalid.
    """

    def __init__(
        self,
        argv: Sequence[str | os.PathLike[str]],
        env: Mapping[str, str | None] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        user: str | int | None = None,
        *,
        stop_signal: int = signal.SIGTERM,
        cause: str | None = None,
    ) -> None:
        self._argv = arguments_of(argv)
        self._env = dict(env or {})
        self._cwd = cwd
        self._user = user
        self._stop_signal = stop_signal
        self._cause = cause
        for name, value in self._env.items():
            if not isinstance(value, str | None):
                raise PlanDefinitionError(
                    f"service: the variable {name!r} of env is {value!r}; use text, or None"
                )
        self.name = os.path.basename(self._argv[0])
        self.ports = ports_named([*self._argv, *(value for value in self._env.values() if value)])

    def condition(self, ready: Ready | None) -> Condition:
        """Return the condition that the program must meet."""
        if ready is not None:
            condition = condition_of(ready)
        elif self.ports:
            condition = functools.reduce(operator.and_, map(tcp, self.ports))
        else:
            raise PlanDefinitionError(
                f"service: nothing shows that {self.name!r} is ready; use {{port}} in its "
                "arguments or its environment, or pass ready="
            )
        refuse_unusable(condition, repr(self.name), self.ports)
        return condition

    def cause(self, output: str) -> str | None:
        """Return the lines of its output that say why it has ended, if there are any."""
        lines = [" ".join(line.split()) for line in output.splitlines() if line.strip()]
        for place, line in enumerate(lines):
            if self._cause is not None and re.search(self._cause, line):
                return " | ".join(lines[place : place + _CAUSE_LINES])
        return None

    def command(self, host: str, ports: Mapping[str, int]) -> Command:
        """Return how to start the program on this host with these ports."""
        return Command(
            [filled(word, host, ports) for word in self._argv],
            {name: value and filled(value, host, ports) for name, value in self._env.items()},
            cwd=self._cwd,
            user=self._user,
            stop_signal=self._stop_signal,
        )


def start(ctx: Context, wanted: Wanted, condition: Condition, timeout: float | None) -> Service:
    """Start a program on free ports, and wait until it is ready; see `service`.

    Args:
        ctx: the `ctx` of the hook.
        wanted: what to start.
        condition: the condition that it must meet.
        timeout: the maximum time until it is ready, in seconds; None means the time limit of the
            step.
    """
    starter = starter_of(ctx)
    begun = starter.now()
    for left in reversed(range(_STARTS)):
        ports = {name: ctx.free_port() for name in wanted.ports}
        try:
            return _start(ctx, wanted, ports, condition, timeout)
        except PortLostError as lost:
            if not ports or not left:
                raise RuntimeError(str(lost)) from None
            if timeout is not None:
                timeout = max(0.0, timeout - (starter.now() - begun))
                begun = starter.now()
            ctx.log(f"{lost}; {wanted.name} is started again, with another port")
    raise AssertionError


def _start(
    ctx: Context,
    wanted: Wanted,
    ports: Mapping[str, int],
    condition: Condition,
    timeout: float | None,
) -> Service:
    """Start the program with these ports, and wait until it is ready.

    Raises:
        PortLostError: another process has one of the ports. The program was ended.
    """
    starter, own, host = starter_of(ctx), _Own(condition), ctx.host
    started = starter.start(wanted.command(host, ports), ports, own, timeout)
    port = ports.get(FIRST, next(iter(ports.values()), None))
    url = None if port is None else f"http://{netloc(host, port)}"
    pid = started.first_process.pid
    started.value = value = Service(host, port, dict(ports), url, pid)
    try:
        starter.wait_until_ready(started, own, timeout, "service")
    except PortLostError:
        starter.forget(started)
        raise
    except RuntimeError as error:
        if lost := _lost(started, error):
            starter.forget(started)
            raise lost from None
        if (cause := wanted.cause(started.output())) is not None:
            raise RuntimeError(f"{error}: {cause}") from None
        raise
    return value


def _lost(started: Started, error: RuntimeError) -> PortLostError | None:
    """Return the error of a program that has ended because another process has its port."""
    if started.process.status() is None:
        return None
    if strangers := started.strangers(started.ports.values()):
        return PortLostError.to(strangers)
    if started.ports and (said := _IN_USE.search(started.output())):
        return PortLostError(f"{error}: {said[0]}")
    return None


class _Own(Condition):
    """A condition that the program of a service must meet itself, and no other process for it."""

    def __init__(self, condition: Condition) -> None:
        self.made = _Own, (condition,)
        self._condition = condition

    def check(self, target: Target, timeout: float) -> None:
        """Check the condition, and before and after it who listens on its ports."""
        assert isinstance(target, Started)
        ports = {*target.ports.values(), *self._condition.local_ports(target)}
        _refuse_strangers(target, ports)
        self._condition.check(target, timeout)
        _refuse_strangers(target, ports)


def _refuse_strangers(started: Started, ports: Collection[int]) -> None:
    if strangers := started.strangers(ports):
        raise PortLostError.to(strangers)
