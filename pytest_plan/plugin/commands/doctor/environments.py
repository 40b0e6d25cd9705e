"""Checks what earlier runs have kept or left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_plan.engine.environments.environment import FOLDER, JOURNAL, names
from pytest_plan.engine.journal.reader import read
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.plugin.commands.doctor.finding import Finding, Level
from pytest_plan.plugin.commands.environments.recorded.condition import (
    EnvironmentCondition,
    Use,
    condition,
)
from pytest_plan.plugin.interface.options import DEFAULT_ENVIRONMENT, Settings
from pytest_plan.plugin.run import launch


def environments(config: pytest.Config, settings: Settings) -> Iterator[Finding]:
    """Check each environment of this project.

    Args:
        config: the config of this process.
        settings: the options.
    """
    subject = "environments"
    try:
        known = names(settings.dir)
    except JournalError:
        return  # the check of `plan_dir` says why
    if not known:
        yield Finding(Level.OK, subject, "nothing is kept, and nothing is left behind")
    for name in known:
        try:
            recorded = read(settings.dir / FOLDER / name / JOURNAL, launch.key_of(config))
            recorded.check_place()
            found = condition(name, recorded, settings.dir)
        except JournalError as error:
            if (settings.dir / FOLDER / name / JOURNAL).exists():  # else it was just cleaned up
                yield Finding(Level.PROBLEM, subject, f"{name!r} cannot be read: {error}")
        else:
            yield _finding(config, subject, found)


def _finding(config: pytest.Config, subject: str, found: EnvironmentCondition) -> Finding:
    text = (
        f"{found.name!r} is {found.use.value} for {format_duration(found.age)}, "
        f"{len(found.steps)} steps"
    )
    if found.use is Use.LEFT:
        cure = launch.typed(config, DEFAULT_ENVIRONMENT, "--plan-cleanup")
        return Finding(Level.PROBLEM, subject, f"{found.name!r} was left behind", cure)
    dead = [step.name for step in found.steps if step.alive is False]
    if dead and found.use is Use.KEPT:
        cure = launch.typed(config, found.name, "--plan-reuse")
        return Finding(Level.PROBLEM, subject, f"{text}; not running: {', '.join(dead)}", cure)
    return Finding(Level.OK, subject, text)
