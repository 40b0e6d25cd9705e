"""What all steps of a run share."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping

from pytest_plan.engine.journal.null import Unrecorded
from pytest_plan.engine.model.clock import PlanClock
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.model.secret import Masker
from pytest_plan.engine.shared.folders import RunFolders
from pytest_plan.engine.shared.store import LocalStore


class Ports:
    """Hands out free ports of the loopback interface, none of them twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _given
        self._given: set[int] = set()

    def take(self) -> int:
        """Return a port that was free a moment ago and that this run has not handed out."""
        with self._lock:
            while True:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", 0))
                    port = int(probe.getsockname()[1])
                if port not in self._given:
                    self._given.add(port)
                    return port


class Variables:
    """Environment variables that steps have set, each owned by one step."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _owners and the pair of read and write of environ
        # The step that has set a variable, and what was there before each time that it did.
        self._owners: dict[str, tuple[str, list[str | None]]] = {}

    def set(self, name: str, value: str, step: str) -> None:
        """Set `name` for this process; raise PlanDefinitionError when another step holds it."""
        with self._lock:
            owner, before = self._owners.get(name, (step, []))
            if owner != step:
                raise PlanDefinitionError(
                    f"steps {owner!r} and {step!r} both set the environment variable {name!r}",
                    step=step,
                )
            was = os.environ.get(name)
            os.environ[name] = value
            self._owners[name] = (owner, [*before, was])

    def restore(self, name: str) -> None:
        """Put back what `name` was before the last `set` that has not been restored."""
        with self._lock:
            owner, before = self._owners.pop(name)
            *earlier, was = before
            if earlier:
                self._owners[name] = (owner, earlier)
            if was is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = was

    def current(self) -> dict[str, str]:
        """Return the variables that are set now."""
        with self._lock:
            return {name: os.environ[name] for name in self._owners if name in os.environ}


class Services:
    """What all steps of a run share.

    Args:
        run_id: names the run.
        clock: measures its time.
        store: where the State is.
        folders: its temporary folders, and its artifacts.
        journal: hears what a later process must know.
        program_variables: returns what a step's programs find in their environment besides ours;
            None: nothing.
    """

    __slots__ = (
        "clock",
        "folders",
        "journal",
        "masker",
        "ports",
        "program_variables",
        "run_id",
        "store",
        "variables",
    )

    def __init__(
        self,
        run_id: str,
        clock: PlanClock,
        store: LocalStore,
        folders: RunFolders,
        journal: Unrecorded,
        *,
        program_variables: Callable[[str], Mapping[str, str]] | None,
    ) -> None:
        self.run_id = run_id
        self.clock = clock
        self.store = store
        self.folders = folders
        self.journal = journal
        self.masker = Masker()
        self.ports = Ports()
        self.variables = Variables()
        self.program_variables = program_variables

    def program_environment(
        self, step: str, given: Mapping[str, str] | None
    ) -> Mapping[str, str] | None:
        """Return the environment of a program of `step`: `given` as it is, else ours and more."""
        if given is not None or self.program_variables is None:
            return given
        return {**os.environ, **self.program_variables(step)}
