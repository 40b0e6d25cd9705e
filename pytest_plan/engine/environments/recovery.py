"""Recovery: cleans up environments whose owner is dead.

Scripts and the pytest plugin share it. They differ in what they leave alone, what they load and
what they report, and say so by `RecoveryCallbacks`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.environments.environment import Environment, claimed, names
from pytest_plan.engine.execution.restore import Restorer
from pytest_plan.engine.journal.reader import Recorded, RecordedStep, read
from pytest_plan.engine.journal.reference import References
from pytest_plan.engine.model.errors import JournalError

if TYPE_CHECKING:
    from pytest_plan.engine.execution.run import Run
    from pytest_plan.engine.journal.journal import Journal

Revive = Callable[[Restorer, "Journal"], "Run"]


class RecoveryCallbacks:
    """Decides about a recovery and is notified of its progress.

    This base class is for scripts: it leaves nothing alone, loads and reports nothing, and raises.
    """

    def skips(self, name: str) -> bool:
        """Whether to leave the environment of this name alone, without reading its journal."""
        return False

    def skips_recorded(self, environment: Environment, recorded: Recorded) -> bool:
        """Whether to leave this environment alone, judging by its journal."""
        return False

    def in_use(self, name: str) -> None:
        """The environment has a living owner and is left alone."""

    def exhausted(self, environment: Environment) -> None:
        """Enough owners have tried to clean up the environment; it is left as it is."""

    def failed(self, name: str, environment: Environment | None, error: JournalError) -> None:
        """The environment cannot be cleaned up; it is None if not even its folder is usable.

        Raises:
            JournalError: the recovery ends here. Without it, the next environment follows.
        """
        raise error

    def begins(self, environment: Environment, recorded: Recorded) -> None:
        """The cleanup of the environment begins."""

    def load(self, recorded: Recorded) -> None:
        """Load the code of the recorded steps; they are looked up afterwards."""

    def running(self, run: Run) -> contextlib.AbstractContextManager[None]:
        """Return a context manager in which `run` cleans up."""
        return contextlib.nullcontext()

    def remains(self, environment: Environment, due: Collection[RecordedStep]) -> bool:
        """Whether to keep the environment after its cleanup.

        Args:
            environment: the environment.
            due: the steps of which something is left.
        """
        return bool(due)


class Recovery:
    """Cleans up environments whose owner is dead, in reverse order of completion.

    Args:
        parent: the folder with all environments.
        declared: the steps that are declared now. They have the code of the recorded steps.
        references: finds recorded functions.
        revive: makes a run of recorded steps.
        callbacks: decides and is notified.
    """

    def __init__(
        self,
        parent: Path,
        declared: Mapping[str, PlannedStep],
        references: References,
        revive: Revive,
        callbacks: RecoveryCallbacks,
    ) -> None:
        self._parent = parent
        self._declared = declared
        self._references = references
        self._revive = revive
        self._callbacks = callbacks

    def clean_up_all(self) -> None:
        """Clean up every environment without a living owner, the oldest first.

        Raises:
            JournalError: a callback has raised it.
        """
        for name in names(self._parent):
            if self._callbacks.skips(name):
                continue
            try:
                with claimed(self._parent, name) as environment:
                    self._look_at(name, environment)
            except JournalError as error:
                self._callbacks.failed(name, None, error)

    def _look_at(self, name: str, environment: Environment | None) -> None:
        if environment is None:
            self._callbacks.in_use(name)
            return
        try:
            recorded = environment.recorded()
        except JournalError as error:
            self._callbacks.failed(name, environment, error)
            return
        if recorded is None or self._callbacks.skips_recorded(environment, recorded):
            return
        self.clean_up(environment, recorded)

    def clean_up(self, environment: Environment, recorded: Recorded) -> None:
        """Clean up an environment that is ours, and release it unless its owners have given up.

        Args:
            environment: the environment; its former owner is dead, or has kept it.
            recorded: the contents of its journal.

        Raises:
            JournalError: its journal cannot be read or written any more.
        """
        if recorded.exhausted():
            self._callbacks.exhausted(environment)
            return
        self._callbacks.begins(environment, recorded)
        self.clean_up_steps(environment, recorded, recorded.steps)
        due = read(environment.file).due()
        environment.release(remove=not self._callbacks.remains(environment, due))

    def clean_up_steps(
        self, environment: Environment, recorded: Recorded, steps: Collection[str]
    ) -> None:
        """Clean up these steps of an environment that is ours, in reverse.

        Raises:
            JournalError: its journal cannot be written.
        """
        self._callbacks.load(recorded)
        restorer = Restorer(recorded, steps, self._declared, self._references)
        journal = environment.open(self._references, lambda name: recorded.steps[name].fingerprint)
        run = self._revive(restorer, journal)
        with self._callbacks.running(run):
            run.clean_up(reason="recovery")


def recover(parent: Path, declared: Mapping[str, PlannedStep], revive: Revive) -> None:
    """Clean up every environment in `parent` whose owner is dead, for a plan without pytest.

    Args:
        parent: the folder with all environments.
        declared: the steps that are declared now. They have the code of the recorded steps.
        revive: makes a run of recorded steps.

    Raises:
        JournalError: a journal cannot be read; it is left as it is.
    """
    references = References(Path.cwd())
    Recovery(parent, declared, references, revive, RecoveryCallbacks()).clean_up_all()


class OwnEnvironment:
    """The environment of a run without pytest.

    Args:
        parent: the folder with all environments.
        run_id: the id of the run; it names the environment.

    Attributes:
        journal: the journal of the run.

    Raises:
        JournalError: the folder is unusable.
    """

    def __init__(self, parent: Path, run_id: str) -> None:
        self._environment = Environment(parent, f"run-{run_id}")
        try:
            self.journal = self._environment.open(References(Path.cwd()), lambda step: "")
        except JournalError:
            self._environment.release()
            raise

    def end(self) -> None:
        """Release the environment; it is kept if a later run could still clean something up."""
        self._environment.release(remove=not read(self._environment.file).due())
