"""The facts about one run, and the facilities that its steps share."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pytest_plan.engine.definition.planned import Instance
from pytest_plan.engine.journal.null import NullJournal
from pytest_plan.engine.model.clock import PlanClock
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
from pytest_plan.engine.shared.variables import InstanceVariables, Variables


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
        instance_variables: those that instances of steps have set.
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
        "instance_variables",
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
        worker: str | None = None,
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
        self.instance_variables = InstanceVariables(worker)
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

    def set_variable(
        self, name: str, value: str, step: str, instance: Instance | None
    ) -> Callable[[str], None]:
        """Set an environment variable for a step; return the function that takes it back.

        Raises:
            PlanDefinitionError: another step of the run has already set it.
        """
        if instance is None:
            self.instance_variables.refuse(name, step, "")
        elif not self.instance_variables.is_of_process(instance):
            self.variables.refuse(name, step, instance.template)
            self.instance_variables.set(name, value, step, instance)
            return functools.partial(self.instance_variables.restore, step)
        self.variables.set(name, value, step)
        return self.variables.restore

    def test_variables(self, steps: Iterable[str]) -> dict[str, str]:
        """Return the variables that only tests that need one of these steps see."""
        needed = [one for step in steps for one in (*self.programs.needed(step), step)]
        return self.instance_variables.of_tests(needed)

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
            own = self.instance_variables.seen_by(step, self.programs.needed)
            if given is None and self._program_variables is None and not own:
                return None
            variables.update(os.environ)
            variables.update(own)
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
    import socket  # imported late because few runs ask for a port

    family, address = (socket.AF_INET, host) if host == LOOPBACK else first_address(host)
    with socket.socket(family) as probe:
        probe.bind((address, port))
        return int(probe.getsockname()[1])
