"""What a later run needs to start a program of a reused step again, as the journal records it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_plan.engine.processes.orphan import KeptProcess
from pytest_plan.engine.shared.log import StepLog
from pytest_plan.engine.shared.programs.readiness import Condition
from pytest_plan.engine.shared.programs.started import Command, Place, Started
from pytest_plan.engine.shared.run_facts import RunFacts

_OWN = "pytest_plan."  # conditions of other packages are not recorded


def start_of(started: Started) -> dict[str, Any]:
    """Return how to start a program again, as values that the journal can record.

    The environment is not part of it, except what the step has given: a later run has its own.

    Args:
        started: the program.
    """
    command, cwd = started.command, started.place.cwd
    return {
        "argv": list(command.argv),
        "env": None if command.env is None else dict(command.env),
        "clean_env": command.clean_env,
        "cwd": None if cwd is None else os.path.abspath(cwd),
        "user": command.user,
        "group": command.group,
        "host": started.host,
        "ports": dict(started.ports),
        "timeout": started.timeout,
        "ready": None if started.condition is None else _recorded(started.condition),
    }


def started_by_earlier_run(
    how: Mapping[str, Any],
    start: Mapping[str, Any] | None,
    *,
    number: int,
    process: KeptProcess,
    facts: RunFacts,
    log: StepLog,
) -> Started:
    """Return the program of a reused step, which a test can stop and start.

    Args:
        how: the record of its process tree.
        start: what `start_of` has returned; None if it could not be recorded.
        number: the number of the tree in the journal.
        process: its process.
        facts: the facts about the run.
        log: the log of the step.
    """
    known = start or {"argv": [how["program"]], "env": None, "clean_env": False, "cwd": None}
    command = Command(
        known["argv"], known["env"], known["clean_env"], known["cwd"], known.get("user"),
        known.get("group"), how["signal"], how["grace"], how.get("watch", True),
    )  # fmt: skip
    env = facts.program_environment(log.step, command.env, clean=command.clean_env)
    place = Place(dict(os.environ) if env is None else env, command.cwd)
    started = Started(command, place, process.marks, number, log)
    started.process = process
    started.host = known.get("host", started.host)
    started.ports = known.get("ports", {})
    started.timeout = known.get("timeout")
    started.refusal = how.get("unrecorded")
    ready = known.get("ready")
    started.condition = None if ready is None else _condition(ready)
    return started


def _recorded(condition: Condition) -> list[Any] | None:
    """Return how to make an equal condition; None if only this process can."""
    if condition.made is None or not condition.made[0].__module__.startswith(_OWN):
        return None
    function, arguments = condition.made
    words: list[list[Any]] = []
    for argument in arguments:
        if not isinstance(argument, Condition):
            words.append([False, argument])
        elif (word := _recorded(argument)) is None:
            return None
        else:
            words.append([True, word])
    return [function.__module__, function.__qualname__, words]


def _condition(recorded: Sequence[Any]) -> Condition | None:
    """Return a recorded condition; None if this version has no such condition."""
    try:
        return _built(*recorded)
    except (ImportError, AttributeError, TypeError, ValueError):
        return None


def _built(module: str, name: str, words: Sequence[Sequence[Any]]) -> Condition:
    make = getattr(importlib.import_module(module), name)
    found = [_built(*word) if is_condition else word for is_condition, word in words]
    condition: Condition = make(*found)
    return condition
