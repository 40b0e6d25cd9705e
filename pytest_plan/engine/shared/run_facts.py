"""The facts about one run, and the facilities that its steps share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_plan.engine.journal.null import NullJournal
from pytest_plan.engine.model.clock import PlanClock
from pytest_plan.engine.model.events import Event, Listener
from pytest_plan.engine.model.secret import Masker
from pytest_plan.engine.shared.facilities import Ports, Variables
from pytest_plan.engine.shared.folders import RunFolders
from pytest_plan.engine.shared.programs import Programs
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
        ports: the free ports.
        variables: the environment variables that steps have set.
        programs: the programs that steps have started.
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
        "clock",
        "deadline",
        "emit",
        "folders",
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
        emit: Callable[[Event], None],
        listeners: Sequence[Listener],
        skip_on: tuple[type[BaseException], ...] = (),
        stop_on: tuple[type[BaseException], ...] = (),
        program_variables: Callable[[str], Mapping[str, str]] | None = None,
    ) -> None:
        self._process = os.getpid()
        self.run_id = run_id
        self.clock = clock
        self.began: float = clock.now()
        self.deadline: float | None = None if limit is None else self.began + limit
        self.store = store
        self.folders = folders
        self.journal = journal
        self.masker = Masker()
        self.ports = Ports()
        self.variables = Variables()
        self.programs = Programs()
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
        return os.getpid() != self._process

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
