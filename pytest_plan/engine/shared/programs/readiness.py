"""Readiness: the conditions that a server must meet before a step may rely on it.

A condition checks a *target*: a program, a container, or an existing server. If the target does not
meet it, the condition raises `NotReadyError` with the answer of the target.
"""

from __future__ import annotations

import abc
import inspect
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, Protocol, TypeAlias, TypeVar

from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import PlanDefinitionError, PlanError, describe
from pytest_plan.engine.processes.listeners import Stranger
from pytest_plan.engine.shared.programs.placeholders import filled

T = TypeVar("T")
_EVERY = 0.1  # seconds between two tries
_SHORTEST = 0.5  # seconds that a try gets at least, and that it ends before it must return
_LONGEST = 3600.0  # seconds that a try gets if nothing limits it


class NotReadyError(Exception):
    """A target does not meet a condition. The text names the condition and the last answer."""


class PortLostError(PlanError):
    """Another process answers on a port that a program was to use."""

    @classmethod
    def to(cls, strangers: Sequence[Stranger]) -> PortLostError:
        """Return the error of a program whose ports are answered by these processes."""
        return cls("; ".join(one.as_answer() for one in strangers))


class _EndedError(PlanError):
    """A target has ended, so it is pointless to wait for it."""


class Target(abc.ABC):
    """The object that a condition checks: a program, a container, or an existing server.

    Attributes:
        name: its name in messages.
        host: the host on which it answers.
        ports: the ports on which it answers, by the names that conditions use for them.
        value: the argument for a callable that takes one.
        scheme: the scheme of URLs of which a condition has only the path.
        is_ours: whether the step has started it. If not, conditions about its start count as met.
    """

    scheme = "http"
    is_ours = True
    name: str
    host: str
    ports: Mapping[Any, int]
    value: object

    def address(self, port: int | str | None = None) -> tuple[str, int]:
        """Return the host and the port to connect to.

        Args:
            port: the name of the port, or its number; None means the first one.

        Raises:
            PlanDefinitionError: the target has no such port.
        """
        if port is None:
            port = next(iter(self.ports), None)
        if port in self.ports:
            return self.host, self.ports[port]
        if isinstance(port, int):
            return self.host, port
        if port is None:
            raise PlanDefinitionError(
                f"the readiness condition of {self.name} needs a port, and {self.name} has none; "
                "use {port} in the arguments, or give the condition a port or a whole URL"
            )
        known = ", ".join(map(repr, self.ports)) or "none"
        raise PlanDefinitionError(f"{self.name} has no port named {port!r}; its ports: {known}")

    def filled(self, words: Iterable[str]) -> list[str]:
        """Return words with the placeholders for its host and ports replaced."""
        return [filled(word, self.host, self.ports) for word in words]

    def failure(self) -> str | None:
        """Return why it cannot become ready any more; None while it can."""
        return None

    def output(self) -> str:
        """Return its output since it was started.

        Raises:
            PlanDefinitionError: it has no output that can be read.
        """
        self._refuse("output")

    def run(self, argv: Sequence[str], timeout: float) -> tuple[int, str]:
        """Run a program beside the target; return its exit status and its output.

        Raises:
            PlanDefinitionError: that is impossible for this kind of target.
            subprocess.TimeoutExpired: the program took longer than `timeout` seconds.
        """
        self._refuse("way to run a command")

    def health(self) -> str:
        """Return its state of health, which is `healthy` once it is ready.

        Raises:
            PlanDefinitionError: it has no health check.
        """
        self._refuse("health check; only containers have one")

    def has_accepted(self, connection: socket.socket) -> bool:
        """Return whether the target itself has accepted a connection, and no proxy for it."""
        return True

    def _refuse(self, what: str) -> NoReturn:
        raise PlanDefinitionError(f"{self.name} has no {what}")


class Condition(abc.ABC):
    """A condition that a server must meet before the step goes on.

    Join conditions with `&`: all of them must be met. One side may be a function.

    Attributes:
        made: a function or class of this package that makes an equal condition, and the arguments,
            which are plain data or conditions; None if there is none.
    """

    made: tuple[Callable[..., Condition], tuple[object, ...]] | None = None
    __module__ = "pytest_plan.steps"

    @abc.abstractmethod
    def check(self, target: Target, timeout: float) -> None:
        """Return if the target meets the condition.

        Args:
            target: the target.
            timeout: the maximum duration of this try, in seconds.

        Raises:
            NotReadyError: the target does not meet it now. Any other `Exception` that is no
                `PlanError` means the same.
            PlanError: the target can never meet it.
        """

    def local_ports(self, target: Target) -> set[int]:
        """Return the ports of this machine that `check` connects to."""
        return set()

    def __and__(self, other: Ready) -> Condition:
        return _All(self, condition_of(other))

    def __rand__(self, other: Ready) -> Condition:
        return _All(condition_of(other), self)


Ready: TypeAlias = "Condition | Callable[[], object] | Callable[[Any], object]"


class _All(Condition):
    """Conditions that must all be met."""

    def __init__(self, *conditions: Condition) -> None:
        self._conditions = conditions
        self.made = _All, conditions

    def check(self, target: Target, timeout: float) -> None:
        """Check the conditions in order."""
        for one in self._conditions:
            one.check(target, timeout)

    def local_ports(self, target: Target) -> set[int]:
        """Return the ports of all conditions."""
        return {port for one in self._conditions for port in one.local_ports(target)}


class _Callable(Condition):
    """A function that must return a true value."""

    def __init__(self, function: Callable[..., object], *, takes_value: bool) -> None:
        self._function = function
        self._takes_value = takes_value
        self._name = getattr(function, "__qualname__", None) or repr(function)

    def check(self, target: Target, timeout: float) -> None:
        """Call the function."""
        try:
            value = self._function(*[target.value][: self._takes_value])
        except PlanError:
            raise
        except Exception as error:
            raise NotReadyError(f"{self._name}: {describe(error)}") from error
        if not value:
            raise NotReadyError(f"{self._name}: {value!r}")


def condition_of(ready: object) -> Condition:
    """Return the condition that `ready` is or stands for.

    Args:
        ready: a condition, or a function that takes no argument or one: the value that the step
            gets from the call that waits.

    Raises:
        PlanDefinitionError: it is neither.
    """
    if isinstance(ready, Condition):
        return ready
    if not callable(ready) or (isinstance(ready, type) and issubclass(ready, Condition)):
        raise PlanDefinitionError(
            f"ready: {ready!r} is not a condition; "
            "use http(...), tcp(), log_line(...), command([...]), healthy(), or a function"
        )
    if inspect.iscoroutinefunction(ready):
        raise PlanDefinitionError(f"ready: {ready!r} is async; use a function that is not")
    count = _required(ready)
    if count > 1:
        raise PlanDefinitionError(
            f"ready: {ready!r} takes {count} arguments; use a function that takes none or one"
        )
    return _Callable(ready, takes_value=count == 1)


def _required(function: Callable[..., object]) -> int:
    """Return how many positional arguments a function requires."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 0
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in by_position and one.default is one.empty for one in parameters)


def refuse_unusable(condition: Condition, name: str, ports: Iterable[str] = ()) -> None:
    """Raise PlanDefinitionError if a condition needs a port that a target will not have.

    Args:
        condition: the condition.
        name: the name of the target in messages.
        ports: the names of the ports that it will have.
    """
    condition.local_ports(_Expected(name, ports))


class _Expected(Target):
    """A target that does not exist yet."""

    def __init__(self, name: str, ports: Iterable[str]) -> None:
        self.name = name
        self.host = "127.0.0.1"
        self.ports = dict.fromkeys(ports, 1)
        self.value: object = None


class Waiter(Protocol):
    """The way in which a call of a step waits, within its limits."""

    def wait(self, ask: Callable[[], T], longest: float | None, pause: float, what: str) -> T:
        """Call `ask` until it returns a true value, and return that value.

        Args:
            ask: the function; an exception that is no `PlanError` means "not yet".
            longest: the maximum time to wait, in seconds; None means the limit of the call.
            pause: the seconds between two calls.
            what: the function to which the limit belongs, for messages.

        Raises:
            TimeoutError: `ask` did not return a true value within `longest`.
            PlanError: the call must stop.
        """

    def seconds_left(self) -> float | None:
        """Return the seconds until `ask` must return; None if there is no limit."""


def wait_until_ready(
    waiter: Waiter, target: Target, condition: Condition, timeout: float | None, what: str
) -> None:
    """Wait until a target meets a condition.

    Args:
        waiter: the way in which the call waits.
        target: the target.
        condition: the condition.
        timeout: the maximum time to wait, in seconds; None means the limit of the call.
        what: the function to which the timeout belongs, for messages.

    Raises:
        TimeoutError: the target did not meet the condition in time; the message has the last
            answer.
        RuntimeError: the target has ended.
        PlanError: the hook must stop, or the target can never meet the condition.
    """
    tries = _Tries(waiter, target, condition)
    try:
        waiter.wait(tries.ask, timeout, _EVERY, what)
    except TimeoutError as error:
        if timeout is None or isinstance(error, PlanError):
            raise
        raise TimeoutError(f"not ready after {_shown(timeout)}: {tries.answer}") from None
    except _EndedError as error:
        raise RuntimeError(str(error)) from None


class _Tries:
    """Asks whether a target is ready, and keeps the last answer."""

    def __init__(self, waiter: Waiter, target: Target, condition: Condition) -> None:
        self._waiter = waiter
        self._target = target
        self._condition = condition
        self.answer = "it was not asked"

    def ask(self) -> bool:
        """Return whether the target is ready; raise if it never will be."""
        if (ending := self._target.failure()) is not None:
            raise _EndedError(ending)
        left = self._waiter.seconds_left()
        seconds = _LONGEST if left is None else max(_SHORTEST, left - _SHORTEST)
        try:
            self._condition.check(self._target, seconds)
        except PlanError:
            raise
        except Exception as error:
            self.answer = str(error) if isinstance(error, NotReadyError) else describe(error)
            # A step that exceeds its own timeout shows this as the cause.
            raise TimeoutError(f"not ready: {self.answer}") from None
        return True


def _shown(seconds: float) -> str:
    return f"{round(seconds, 1):g}s" if seconds < 60 else format_duration(seconds)
