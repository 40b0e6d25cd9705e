"""Judges the condition of an environment by its journal and by the processes that are running.

It runs no code of the project: an `alive` hook is not called.
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any, NamedTuple

from pytest_plan.engine.environments.environment import FOLDER
from pytest_plan.engine.environments.lock import RECOVERY, owner_of, released_by
from pytest_plan.engine.environments.recovery import has_dead_program, programs_of
from pytest_plan.engine.execution.restore import log_names
from pytest_plan.engine.journal.reader import Recorded, RecordedStep
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.processes.listeners import addresses_of
from pytest_plan.engine.processes.orphan import orphan_tree
from pytest_plan.engine.shared.folders import below, private_file_in
from pytest_plan.plugin.run.files import artifacts
from pytest_plan.plugin.run.files.artifacts import made_by

_LOG = "log.txt"


class Use(enum.Enum):
    """What an environment is used for."""

    KEPT = "kept"
    IN_USE = "in use"
    BEING_CLEANED = "being cleaned up"
    LEFT = "left"  # its run has ended, or was killed, and nothing cleans it up


class StepCondition(NamedTuple):
    """The condition of a step.

    Attributes:
        name: the name of the step.
        outcome: its recorded outcome.
        cleanup: the recorded outcome of its cleanup.
        alive: whether its programs are running; None if it has none, or they cannot be judged.
        reason: why it is dead; "" if it is not.
        listens: the TCP addresses and Unix sockets on which its processes listen.
        run: the id of the run that has provisioned it; None if that is not recorded.
        log: its masked log; None if there is none any more.
        output: the private file to which its programs write; None if that is not known.
    """

    name: str
    outcome: str
    cleanup: str
    alive: bool | None
    reason: str
    listens: list[str]
    run: str | None
    log: Path | None
    output: Path | None


class EnvironmentCondition(NamedTuple):
    """The condition of an environment.

    Attributes:
        name: the name of the environment.
        use: what it is used for.
        run: the id of the last run that has used it; None if that is not recorded.
        pid: the process id of its owner; None if it is not recorded.
        host: the host of its owner; None if it is not recorded.
        age: the seconds since its owner has begun to use it.
        steps: its steps, in the order in which they began.
    """

    name: str
    use: Use
    run: str | None
    pid: int | None
    host: str | None
    age: float
    steps: list[StepCondition]

    @property
    def is_dead(self) -> bool:
        """Whether something of it should be running and is not."""
        return self.use is Use.LEFT or any(step.alive is False for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """Return the condition as plain data."""
        steps = [
            {**step._asdict(), "log": _text(step.log), "output": _text(step.output)}
            for step in self.steps
        ]
        return {
            "name": self.name,
            "use": self.use.value,
            "run": self.run,
            "kept_by": self.run if self.use is Use.KEPT else None,
            "pid": self.pid,
            "host": self.host,
            "age_seconds": self.age,
            "dead": self.is_dead,
            "steps": steps,
        }


def condition(name: str, recorded: Recorded, plan_dir: Path) -> EnvironmentCondition:
    """Return the condition of an environment.

    Args:
        name: its name.
        recorded: the content of its journal.
        plan_dir: the folder for journals and artifacts.
    """
    owner, now = owner_of(recorded), SystemClock.wall()
    return EnvironmentCondition(
        name=name,
        use=_use(recorded, plan_dir / FOLDER / name),
        run=recorded.facts.get("run"),
        pid=None if owner is None else owner.pid,
        host=None if owner is None else owner.host,
        age=max(0.0, now - recorded.facts.get("since", now)),
        steps=[_step(step, recorded, plan_dir) for step in recorded.steps.values()],
    )


def _use(recorded: Recorded, folder: Path) -> Use:
    if recorded.is_kept:
        return Use.KEPT
    owner = owner_of(recorded)
    if owner is None or not owner.may_live or released_by(folder) == owner:
        return Use.LEFT
    is_cleaned = recorded.facts.get("activity") == RECOVERY
    return Use.BEING_CLEANED if is_cleaned else Use.IN_USE


def _step(step: RecordedStep, recorded: Recorded, plan_dir: Path) -> StepCondition:
    owner = owner_of(recorded)
    is_elsewhere = owner is not None and owner.is_elsewhere
    reason = "" if is_elsewhere else _death(step, recorded)
    is_judged = bool(reason) or (not is_elsewhere and _is_up(step) and bool(programs_of(step)))
    run = made_by(recorded, [step.name])[step.name]
    log = plan_dir / artifacts.FOLDER / str(run) / below(step.name) / _LOG
    return StepCondition(
        name=step.name,
        outcome=step.outcome,
        cleanup=step.cleanup,
        alive=not reason if is_judged else None,
        reason=reason,
        listens=[] if is_elsewhere else addresses_of(_pids(step)),
        run=run,
        log=log if log.is_file() else None,
        output=None if is_elsewhere else _output(step, recorded),
    )


def _output(step: RecordedStep, recorded: Recorded) -> Path | None:
    """Return the private file to which the programs of a step write, if there is one."""
    scratch, names = recorded.facts.get("scratch"), log_names(step)
    return private_file_in(Path(scratch), names[-1]) if scratch and names else None


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _is_up(step: RecordedStep) -> bool:
    """Return whether a step is recorded as provisioned, and not as cleaned up."""
    return step.outcome in ("succeeded", "reused") and step.cleanup in ("none", "kept")


def _death(step: RecordedStep, recorded: Recorded) -> str:
    """Return why a step that is recorded as provisioned is dead; "" if it is not."""
    if not _is_up(step):
        return ""
    if has_dead_program(step):
        return "its process ended"
    scratch = recorded.facts.get("scratch")
    if scratch is not None and not Path(scratch).is_dir():
        return "the temporary folder of its run is gone"
    return ""


def _pids(step: RecordedStep) -> list[int]:
    trees = (json.loads(undo.data) for undo in step.undos if undo.kind == "tree")
    return [member.pid for how in trees for member in orphan_tree(how).members()]
