"""The environment variables that steps set for tests and programs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable

from pytest_plan.engine.definition.names import worker_of
from pytest_plan.engine.definition.planned import Instance
from pytest_plan.engine.model.errors import PlanDefinitionError


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

    def refuse(self, name: str, step: str, template: str) -> None:
        """Raise an error if a step has set the variable of which `step` is no instance.

        Raises:
            PlanDefinitionError: there is one; the message names both steps.
        """
        owner = self._owners.get(name, (step, []))[0]
        if owner != step and not owner.startswith((f"{template}@", f"{template}[")):
            raise _twice(name, owner, step)

    def set(self, name: str, value: str, step: str) -> None:
        """Set the environment variable `name` of this process.

        Raises:
            PlanDefinitionError: another step of the run has already set it.
        """
        with self._lock:
            owner, values = self._owners.get(name, (step, []))
            if owner != step:
                raise _twice(name, owner, step)
            values.append(_changes.set(name, value))
            self._owners[name] = (owner, values)

    def restore(self, name: str) -> None:
        """Undo the last call of `set` for `name` that is not undone yet."""
        with self._lock:
            values = self._owners[name][1]
            _changes.undo(name, values.pop())
            if not values:
                del self._owners[name]

    def restore_all(self) -> None:
        """Undo every call of `set`: another run takes over what the steps have set."""
        with self._lock:
            for name, (_, values) in self._owners.items():
                while values:
                    _changes.undo(name, values.pop())
            self._owners.clear()

    def owners(self) -> dict[str, str]:
        """Return the variables that steps have set, and the step of each."""
        with self._lock:
            return {name: step for name, (step, _) in self._owners.items()}

    def current(self) -> dict[str, str]:
        """Return the variables that steps have set, and their current values."""
        with self._lock:
            return {name: os.environ[name] for name in self._owners if name in os.environ}


class InstanceVariables:
    """The environment variables that instances of steps set for some tests and programs only.

    Instances of one step may set the same variable. `os.environ` of this process has none of them.

    Args:
        worker: the worker whose tests this process runs; None if it runs no tests.
    """

    def __init__(self, worker: str | None) -> None:
        self._worker = worker
        self._lock = threading.Lock()  # guards _values
        # By step: the instance, and the values of each variable that are not undone.
        self._values: dict[str, tuple[Instance, dict[str, list[str]]]] = {}

    def is_of_process(self, instance: Instance) -> bool:
        """Return whether all tests of this process see the variables of an instance."""
        return self._worker is not None and instance.worker == self._worker and not instance.choice

    def refuse(self, name: str, step: str, template: str) -> None:
        """Raise an error if an instance of another step has set the variable.

        Raises:
            PlanDefinitionError: there is one; the message names both steps.
        """
        with self._lock:
            for owner, (instance, values) in self._values.items():
                if name in values and instance.template != template:
                    raise _twice(name, owner, step)

    def set(self, name: str, value: str, step: str, instance: Instance) -> None:
        """Set the environment variable `name` for those that see it.

        Raises:
            PlanDefinitionError: an instance of another step has already set it.
        """
        self.refuse(name, step, instance.template)
        with self._lock:
            values = self._values.setdefault(step, (instance, {}))[1]
            values.setdefault(name, []).append(value)

    def restore(self, step: str, name: str) -> None:
        """Undo the last call of `set` for `step` and `name` that is not undone yet."""
        with self._lock:
            values = self._values[step][1]
            values[name].pop()
            if not values[name]:
                del values[name]

    def current(self) -> list[tuple[str, str, str]]:
        """Return the step, the name and the value of each variable."""
        with self._lock:
            return [
                (step, name, values[-1])
                for step, (_, variables) in self._values.items()
                for name, values in variables.items()
            ]

    def of_worker(self, worker: str) -> dict[str, str]:
        """Return the variables that all tests of a worker see."""
        with self._lock:
            return {
                name: values[-1]
                for instance, variables in self._values.values()
                if instance.worker == worker and not instance.choice
                for name, values in variables.items()
            }

    def of_tests(self, steps: Iterable[str]) -> dict[str, str]:
        """Return the variables of these instances that only tests that need them see."""
        with self._lock:
            return {
                name: values[-1]
                for step in steps
                if step in self._values and self._values[step][0].choice
                for name, values in self._values[step][1].items()
            }

    def seen_by(self, step: str, needed: Callable[[str], Iterable[str]]) -> dict[str, str]:
        """Return the variables for the programs of a step.

        Args:
            step: the name of the step.
            needed: a function that returns the steps that a step needs, directly or not.
        """
        if not self._values:
            return {}
        seen = {step, *needed(step)}
        worker = worker_of(step)
        with self._lock:
            return {
                name: values[-1]
                for owner, (instance, variables) in self._values.items()
                if owner in seen or (instance.worker == worker is not None and not instance.choice)
                for name, values in variables.items()
            }


def _twice(name: str, one: str, other: str) -> PlanDefinitionError:
    return PlanDefinitionError(
        f"steps {one!r} and {other!r} both set the environment variable {name!r}", step=other
    )


def _put(name: str, text: str | None) -> None:
    if text is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = text
