"""Journals for a plan that runs by itself: its own, and those that killed runs have left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.environments.environment import Environment, claimed, names
from pytest_plan.engine.execution.restore import Restorer
from pytest_plan.engine.journal.reader import read
from pytest_plan.engine.journal.reference import References
from pytest_plan.engine.model.errors import JournalError

if TYPE_CHECKING:
    from pytest_plan.engine.execution.run import Run
    from pytest_plan.engine.journal.journal import Journal

Revive = Callable[[Restorer, "Journal"], "Run"]


def recover(parent: Path, declared: Mapping[str, PlannedStep], revive: Revive) -> None:
    """Clean up every environment in `parent` whose owner is dead.

    Args:
        parent: the folder of the journals.
        declared: the steps that are declared now: the code is theirs.
        revive: makes a run of recorded steps.

    Raises:
        JournalError: a journal cannot be read; it is left as it is.
    """
    references = References(Path.cwd())
    for name in names(parent):
        with claimed(parent, name) as environment:
            recorded = None if environment is None else environment.recorded()
            if environment is None or recorded is None or recorded.exhausted():
                continue
            prints = {step.name: step.fingerprint for step in recorded.steps.values()}
            journal = environment.open(references, prints.__getitem__)
            revive(Restorer(recorded, recorded.steps, declared, references), journal).clean_up(
                reason="recovery"
            )
            environment.release(remove=not read(environment.file).due())


class OwnEnvironment:
    """The environment of a run without pytest.

    Args:
        parent: the folder of the journals.
        run_id: names it.

    Attributes:
        journal: what the run writes in.

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
        """Let go of it; it stays when something is left that a later run may clean up."""
        self._environment.release(remove=not read(self._environment.file).due())
