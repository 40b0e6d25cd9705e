"""Free ports and environment variables, shared by all steps of a run."""

from __future__ import annotations

import os
import socket
import threading

from pytest_plan.engine.model.errors import PlanDefinitionError


class Ports:
    """Hands out free ports of the loopback interface, each at most once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _given
        self._given: set[int] = set()

    def take(self) -> int:
        """Return a free port that was not handed out before."""
        with self._lock:
            while True:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", 0))
                    port = int(probe.getsockname()[1])
                if port not in self._given:
                    self._given.add(port)
                    return port


class _Value:
    """A value of an environment variable.

    Attributes:
        text: the value; None means that the variable is not set.
    """

    __slots__ = ("text",)

    def __init__(self, text: str | None) -> None:
        self.text = text


class _Changes:
    """The values that all plans of this process have given to environment variables.

    The newest value that has not been undone holds. Once all are undone, the variable has its
    original value again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _values, and each read and write of os.environ
        self._values: dict[str, list[_Value]] = {}  # by variable; the original value comes first

    def set(self, name: str, text: str) -> _Value:
        """Set an environment variable; return the value, for `undo`."""
        value = _Value(text)
        with self._lock:
            original = os.environ.get(name)
            os.environ[name] = text
            self._values.setdefault(name, [_Value(original)]).append(value)
        return value

    def undo(self, name: str, value: _Value) -> None:
        """Undo the call of `set` that returned `value`."""
        with self._lock:
            values = self._values[name]
            held = values[-1] is value
            values.remove(value)
            if held:
                _put(name, values[-1].text)
            if len(values) == 1:
                del self._values[name]


# os.environ belongs to the whole process, and so does the record of its changes.
_changes = _Changes()


class Variables:
    """The environment variables that the steps of a run set. Only one step may set each variable.

    Another plan of this process may set the same variable.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _owners
        # For each variable: the step that set it, and the values that are not undone.
        self._owners: dict[str, tuple[str, list[_Value]]] = {}

    def set(self, name: str, value: str, step: str) -> None:
        """Set the environment variable `name` of this process.

        Raises:
            PlanDefinitionError: another step of the run has already set it.
        """
        with self._lock:
            owner, values = self._owners.get(name, (step, []))
            if owner != step:
                raise PlanDefinitionError(
                    f"steps {owner!r} and {step!r} both set the environment variable {name!r}",
                    step=step,
                )
            values.append(_changes.set(name, value))
            self._owners[name] = (owner, values)

    def restore(self, name: str) -> None:
        """Undo the last call of `set` for `name` that is not undone yet."""
        with self._lock:
            values = self._owners[name][1]
            _changes.undo(name, values.pop())
            if not values:
                del self._owners[name]

    def current(self) -> dict[str, str]:
        """Return the variables that steps have set, and their current values."""
        with self._lock:
            return {name: os.environ[name] for name in self._owners if name in os.environ}


def _put(name: str, text: str | None) -> None:
    if text is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = text
