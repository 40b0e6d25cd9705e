"""Recovery: cleans up environments whose owner has ended.

Scripts and the pytest plugin both use this module. With `RecoveryCallbacks` they decide which
environments to skip, which code to load and what to report.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_plan.engine.definition.planned import PlannedStep
from pytest_plan.engine.environments.environment import Environment, claimed, names
from pytest_plan.engine.environments.lock import RECOVERY
from pytest_plan.engine.execution.restore import Restorer
from pytest_plan.engine.journal.reader import ForeignError, Recorded, RecordedStep
from pytest_plan.engine.journal.reference import References
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.journal.writing.values import Lasting
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.processes.identity import boot_id
from pytest_plan.engine.processes.orphan import orphan_tree

if TYPE_CHECKING:
    from pytest_plan.engine.execution.run import Run
    from pytest_plan.engine.journal.journal import Journal

Revive = Callable[[Restorer, "Journal"], "Run"]


class RecoveryCallbacks:
    """Decides about a recovery and is notified of its progress.

    This base class is for scripts. It skips no environment, loads and reports nothing, and raises
    every error.
    """

    def skips(self, name: str) -> bool:
        """Return whether to skip the environment with this name, without reading its journal."""
        return False

    def repaired(self, text: str, file: Path) -> None:
        """Report a repair of an environment.

        Args:
            text: what was repaired.
            file: its journal.
        """

    def skips_recorded(self, environment: Environment, recorded: Recorded) -> bool:
        """Return whether to skip this environment, given the content of its journal."""
        return False

    def in_use(self, name: str) -> None:
        """Handle an environment that another running process owns. It is left as it is."""

    def exhausted(self, environment: Environment, due: Collection[RecordedStep]) -> None:
        """Handle an environment whose cleanup has failed too often. It is left as it is.

        Args:
            environment: the environment.
            due: the steps that still need cleanup.
        """

    def failed(self, name: str, environment: Environment | None, error: JournalError) -> None:
        """Handle an environment that cannot be cleaned up.

        If this method returns, recovery continues with the next environment.

        Args:
            name: the name of the environment.
            environment: the environment; None means that its folder cannot be used.
            error: the error that prevented the cleanup.

        Raises:
            JournalError: recovery must end here.
        """
        raise error

    def begins(self, environment: Environment, recorded: Recorded, gone: Mapping[str, str]) -> None:
        """Report that cleanup of the environment is starting.

        Args:
            environment: the environment.
            recorded: the content of its journal.
            gone: the steps that are gone with a dead step, each with that step. A failure of their
                cleanups is expected.
        """

    def load(self, recorded: Recorded) -> None:
        """Load the code of the recorded steps before recovery looks them up."""

    def running(self, run: Run) -> contextlib.AbstractContextManager[None]:
        """Return a context manager that is active while `run` cleans up."""
        return contextlib.nullcontext()

    def remains(self, environment: Environment, due: Collection[RecordedStep]) -> bool:
        """Return whether to keep the environment after its cleanup.

        Args:
            environment: the environment.
            due: the steps that still need cleanup.
        """
        return bool(due)


class Recovery:
    """Cleans up environments whose owner has ended. Steps are cleaned up in reverse order.

    Args:
        parent: the folder that contains all environments.
        declared: the steps that are declared now, which have the code of the recorded steps.
        references: the references to recorded functions.
        revive: a function that returns a run of recorded steps.
        callbacks: the callbacks of the caller.
        key: the key that seals the journals; None means the key of this user.
    """

    def __init__(
        self,
        parent: Path,
        declared: Mapping[str, PlannedStep],
        references: References,
        revive: Revive,
        callbacks: RecoveryCallbacks,
        *,
        key: Key | None = None,
    ) -> None:
        self._parent = parent
        self._declared = declared
        self._references = references
        self._revive = revive
        self._callbacks = callbacks
        self._key = key

    def clean_up_all(self) -> None:
        """Clean up every environment whose owner has ended, oldest first.

        Raises:
            JournalError: a callback raised this error.
        """
        for name in names(self._parent):
            if not self._callbacks.skips(name):
                self.clean_up_named(name)

    def clean_up_named(self, name: str) -> None:
        """Clean up the environment with this name if its owner has ended.

        Raises:
            JournalError: a callback raised this error.
        """
        try:
            with claimed(self._parent, name, self._key) as environment:
                self._look_at(name, environment)
        except JournalError as error:
            self._callbacks.failed(name, None, error)

    def _look_at(self, name: str, environment: Environment | None) -> None:
        if environment is None:
            self._callbacks.in_use(name)
            return
        environment.on_repair = self._callbacks.repaired
        try:
            recorded = environment.recorded()
        except JournalError as error:
            self._callbacks.failed(name, environment, error)
            return
        if recorded is None or self._callbacks.skips_recorded(environment, recorded):
            return
        self.clean_up(environment, recorded)

    def clean_up(self, environment: Environment, recorded: Recorded) -> None:
        """Clean up and release an environment that we own. Do neither if it is exhausted.

        Args:
            environment: the environment, whose previous owner has ended or has kept it.
            recorded: the content of its journal.

        Raises:
            JournalError: its journal can no longer be read or written.
        """
        if recorded.exhausted():
            self._callbacks.exhausted(environment, recorded.due())
            return
        steps = [name for name, step in recorded.steps.items() if not step.is_exhausted]
        found = gone_with(recorded, _dead(recorded))
        gone = {name: dead for name, dead in found.items() if name in steps}
        self._callbacks.begins(environment, recorded, gone)
        self.clean_up_steps(environment, recorded, steps)
        after = environment.read()
        due = not_undone(after, after.steps, gone)
        stays = self._callbacks.remains(environment, due)
        if stays and gone:
            known = {step.name for step in due}
            rest = [name for name in gone if name in after.steps and name not in known]
            forget(environment, after, rest, self._references)
        environment.release(remove=not stays)

    def clean_up_steps(
        self, environment: Environment, recorded: Recorded, steps: Collection[str]
    ) -> None:
        """Clean up the given steps of an environment that we own, in reverse order.

        All other steps stay as they are. The cleanups see the values, the State, the variables and
        the folders of all steps, as if the recorded run had ended now.

        Raises:
            JournalError: its journal cannot be written.
        """
        self._callbacks.load(recorded)
        restorer = Restorer(recorded, recorded.steps, self._declared, self._references)
        prints = {name: step.fingerprint for name, step in recorded.steps.items()}
        journal = environment.open(self._references, prints.__getitem__, activity=RECOVERY)
        run = self._revive(restorer, journal)
        with self._callbacks.running(run):
            run.clean_up([name for name in recorded.steps if name not in steps], "recovery")


def programs_of(step: RecordedStep) -> list[dict[str, Any]]:
    """Return the records of the programs of a step that must keep running."""
    trees = [json.loads(undo.data) for undo in step.undos if undo.kind == "tree"]
    return [how for how in trees if "pid" in how and how.get("watch", True)]


def has_dead_program(step: RecordedStep) -> bool:
    """Return whether a program of a step that must keep running has ended."""
    return any(not orphan_tree(how).is_alive() for how in programs_of(step))


def gone_with(recorded: Recorded, dead: Iterable[str]) -> dict[str, str]:
    """Return the steps that are gone, each with the dead or forgotten step that it was in.

    These are the dead steps themselves and all steps that need or follow them, directly or not.
    """
    gone = {name: name for name in (*dead, *recorded.forgotten)}
    waiting = list(gone)
    while waiting:
        one = waiting.pop()
        for name, step in recorded.steps.items():
            if name not in gone and one in (*step.needs, *step.after):
                gone[name] = gone[one]
                waiting.append(name)
    return gone


def not_undone(
    recorded: Recorded, steps: Collection[str], gone: Collection[str]
) -> list[RecordedStep]:
    """Return the steps that still need cleanup.

    A step that is gone with a dead step counts as cleaned up once its processes have ended.

    Args:
        recorded: the content of the journal after a cleanup.
        steps: the steps that were to be cleaned up.
        gone: the steps that are gone.
    """
    return [
        step
        for step in recorded.due()
        if step.name in steps
        and (step.name not in gone or any(undo.kind == "tree" for undo in step.undos))
    ]


def _dead(recorded: Recorded) -> list[str]:
    """Return the steps with a dead program, if their programs were to outlive their run."""
    owner = recorded.owner
    has_rebooted = owner is not None and owner.boot != boot_id()
    if not (recorded.is_kept or has_rebooted):
        return []
    return [name for name, step in recorded.steps.items() if has_dead_program(step)]


def end_programs(step: RecordedStep) -> list[str]:
    """End the programs of a step; return them as text.

    Raises:
        TimeoutError: some processes survived SIGKILL; the message lists them.
    """
    ended = []
    for how in (json.loads(undo.data) for undo in step.undos if undo.kind == "tree"):
        tree = orphan_tree(how)
        ended += [str(member) for member in tree.members()]
        tree.end(SystemClock(), how["signal"], how["grace"])
    return ended


def forget(
    environment: Environment,
    recorded: Recorded,
    steps: Collection[str],
    references: References,
) -> None:
    """Remove all records of steps from the journal of an environment that we own.

    Raises:
        JournalError: the journal cannot be written.
    """
    prints = {name: step.fingerprint for name, step in recorded.steps.items()}
    kept = {key: recorded.facts[key] for key in ("status", "since") if key in recorded.facts}
    forgotten = sorted({*recorded.forgotten, *steps})
    journal = environment.open(
        references, prints.__getitem__, activity=RECOVERY, forgotten=forgotten, **kept
    )
    journal.forget(steps)
    for key, layers in recorded.layers.items():
        if key not in steps and any(layer.writer in steps for layer in layers):
            for layer in layers:
                if layer.writer not in steps:
                    journal.state_set(key, Lasting(layer.text, layer.lost), layer.writer or None)
    journal.close()
    if journal.failure is not None:
        raise journal.failure


def recover(
    parent: Path, declared: Mapping[str, PlannedStep], revive: Revive, key: Key | None = None
) -> None:
    """Clean up every environment in `parent` whose owner has ended; for plans without pytest.

    Args:
        parent: the folder that contains all environments.
        declared: the steps that are declared now, which have the code of the recorded steps.
        revive: a function that returns a run of recorded steps.
        key: the key that seals the journals; None means the key of this user.

    Raises:
        JournalError: a journal cannot be read; it is left as it is. A journal of another user or
            machine is only a warning.
    """
    references = References(Path.cwd())
    Recovery(parent, declared, references, revive, _Script(), key=key).clean_up_all()


class _Script(RecoveryCallbacks):
    """Warns of the journals of others, which do not keep a script from running."""

    def failed(self, name: str, environment: Environment | None, error: JournalError) -> None:
        """Raise the error, unless the journal is of no concern to this script."""
        if not isinstance(error, ForeignError):
            raise error
        warnings.warn(str(error), stacklevel=2)


class OwnEnvironment:
    """The environment of a run without pytest.

    Args:
        parent: the folder that contains all environments.
        run_id: the id of the run, which becomes part of the environment's name.
        key: the key that seals the journal; None means the key of this user.

    Attributes:
        journal: the journal of the run.

    Raises:
        JournalError: the folder cannot be used.
    """

    def __init__(self, parent: Path, run_id: str, key: Key | None = None) -> None:
        self._environment = Environment(parent, f"run-{run_id}", key)
        try:
            self.journal = self._environment.open(References(Path.cwd()), lambda step: "")
        except JournalError:
            self._environment.release()
            raise

    def end(self) -> None:
        """Release the environment; keep its folder if any step still needs cleanup."""
        self._environment.release(remove=not self._environment.read().due())
