"""The facts about one run, and the facilities that its steps share."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_plan.engine.journal.null import NullJournal
from pytest_plan.engine.model.clock import PlanClock
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.model.events import Event, Listener
from pytest_plan.engine.model.secret import Masker
from pytest_plan.engine.processes.addresses import LOOPBACK, first_address, is_loopback
from pytest_plan.engine.processes.copies import getpid
from pytest_plan.engine.shared.folders import RunFolders
from pytest_plan.engine.shared.log import StepLog, note_secrets
from pytest_plan.engine.shared.program_log import Copies
from pytest_plan.engine.shared.programs.checks import Checks
from pytest_plan.engine.shared.programs.programs import Programs
from pytest_plan.engine.shared.store import LocalStore


class RunFacts:
    """The facts about one run, and the facilities that its steps share.

    Attributes:
        run_id: the id of the run.
        clock: the plan's clock.
        began: the time on `clock` at which the run began.
        deadline: the time on `clock` at which the plan reaches its limit; None means no limit.
        store: the storage of the State.
        folders: the scratch folder and the artifacts folders.
        journal: the record that a later process needs to clean up after this one.
        masker: the masker for known secrets.
        copies: the masked copies of the logs.
        ports: the free ports.
        variables: the environment variables that steps have set.
        programs: the programs that steps have started.
        checks: the checks that are called while tests run.
        host: the address under which tests reach what steps start.
        parameters: the values that hooks can take by name, in addition to `ctx`, `state` and the
            values of steps.
        emit: the function that delivers an event to the listeners.
        listeners: the functions that receive the events of the run.
        skip_on: the exceptions that a step can raise to skip itself.
        stop_on: the exceptions that stop the plan and are re-raised unchanged.
    """

    __slots__ = (
        "_process",
        "_program_variables",
        "began",
        "checks",
        "clock",
        "copies",
        "deadline",
        "emit",
        "folders",
        "host",
        "journal",
        "listeners",
        "masker",
        "parameters",
        "ports",
        "programs",
        "run_id",
        "skip_on",
        "stop_on",
        "store",
        "variables",
    )

    def __init__(
        self,
        run_id: str,
        clock: PlanClock,
        store: LocalStore,
        folders: RunFolders,
        journal: NullJournal,
        *,
        limit: float | None = None,
        parameters: Mapping[str, Any],
        host: str = LOOPBACK,
        emit: Callable[[Event], None],
        listeners: Sequence[Listener],
        skip_on: tuple[type[BaseException], ...] = (),
        stop_on: tuple[type[BaseException], ...] = (),
        program_variables: Callable[[str], Mapping[str, str]] | None = None,
    ) -> None:
        self._process = getpid()
        self.run_id = run_id
        self.clock = clock
        self.began: float = clock.now()
        self.deadline: float | None = None if limit is None else self.began + limit
        self.store = store
        self.folders = folders
        self.journal = journal
        self.masker = Masker()
        self.masker.on_learn = note_secrets
        self.copies = Copies()
        self.host = host
        self.ports = Ports(host)
        self.variables = Variables()
        self.programs = Programs()
        self.checks = Checks()
        self.parameters = parameters
        self.emit = emit
        self.listeners = listeners
        self.skip_on = skip_on
        self.stop_on = stop_on
        self._program_variables = program_variables

    def elapsed(self) -> float:
        """Return the seconds since the run began."""
        return self.clock.now() - self.began

    def is_copied(self) -> bool:
        """Return whether this process is a forked copy, to which the run does not belong."""
        return getpid() != self._process

    def log_of(self, step: str) -> StepLog:
        """Return a new log for a step."""
        return StepLog(step, self.folders, self.masker, self.copies)

    def leave(self, *, kept: bool) -> tuple[str, ...]:
        """Restore the environment variables, finish the logs, and remove the scratch folder.

        Args:
            kept: whether the scratch folder stays, because a later run continues with it.

        Returns:
            A message if the folder could not be removed, else nothing.
        """
        self.variables.restore_all()
        self.copies.close()
        left = None if kept else self.folders.remove()
        return () if left is None else (left,)

    def program_environment(
        self, step: str, given: Mapping[str, str | None] | None, *, clean: bool = False
    ) -> Mapping[str, str] | None:
        """Return the environment variables for a program of `step`.

        Args:
            step: the step's name.
            given: the variables that the step sets, or removes if the value is None; None means
                that it changes none.
            clean: whether to begin with no variables instead of those of this process and those
                that the plan adds.

        Returns:
            The variables; None means those of this process.
        """
        variables: dict[str, str | None] = {}
        if not clean:
            if given is None and self._program_variables is None:
                return None
            variables.update(os.environ)
            if self._program_variables is not None:
                variables.update(self._program_variables(step))
        variables.update(given or {})
        return {name: value for name, value in variables.items() if value is not None}


class Ports:
    """Hands out free ports, each at most once.

    Args:
        host: the address on which the ports are free. They are free on the loopback interface, too,
            so that no other process can be taken for the one that listens there.
    """

    def __init__(self, host: str = LOOPBACK) -> None:
        self._host = host
        self._lock = threading.Lock()  # guards _given
        self._given: set[int] = set()

    def take(self) -> int:
        """Return a free port that was not handed out before.

        Raises:
            OSError: no port is free, or the host is not this machine.
        """
        with self._lock:
            while True:
                port = self._free_port()
                if port is not None and port not in self._given:
                    self._given.add(port)
                    return port

    def _free_port(self) -> int | None:
        """Return a port that is free on the host; None if it is not free on loopback."""
        if self._host == LOOPBACK:
            return _bind(LOOPBACK, 0)
        try:
            port = _bind(self._host, 0)
        except OSError as error:
            text = f"no port is free on {self._host}, the address of the plan (--plan-host)"
            raise OSError(error.errno, f"{text}: {error.strerror}") from None
        if not is_loopback(self._host):
            try:
                _bind(LOOPBACK, port)
            except OSError:
                return None
        return port


def _bind(host: str, port: int) -> int:
    """Bind a socket to a port, or to a free one for 0; return the port, which is free again."""
    family, address = (socket.AF_INET, host) if host == LOOPBACK else first_address(host)
    with socket.socket(family) as probe:
        probe.bind((address, port))
        return int(probe.getsockname()[1])


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


def _put(name: str, text: str | None) -> None:
    if text is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = text
