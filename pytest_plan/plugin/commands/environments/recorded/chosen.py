"""Finds the environments of the steps that a command names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest

from pytest_plan.engine.definition.names import suggest
from pytest_plan.engine.environments.environment import FOLDER, JOURNAL, names
from pytest_plan.engine.journal.reader import Recorded, read
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.plugin.interface.options import DEFAULT_ENVIRONMENT, Settings
from pytest_plan.plugin.run import launch


def by_environment(
    config: pytest.Config,
    settings: Settings,
    steps: Iterable[str],
    flag: str,
    say: Callable[..., None],
) -> tuple[Mapping[str, Recorded], dict[str, list[str]]]:
    """Return the environments, and which of the steps are in each of them.

    Args:
        config: the config of this process.
        settings: the options, which may name the environment.
        steps: the names of steps, as they were typed.
        flag: the option that names them.
        say: a function that writes a line; with `bad`, it is about a failure.

    Raises:
        JournalError: the environment that the options name cannot be read.
        pytest.UsageError: a step or the environment is unknown, or several environments have a
            step.
    """
    found = _recorded(config, settings, say)
    only = settings.environment
    if only is not None and only not in found:
        raise pytest.UsageError(
            f"{settings.sources['environment']}: there is no environment {only!r}; "
            f"known environments: {', '.join(found) or 'none'}"
        )
    searched = found if only is None else {only: found[only]}
    chosen: dict[str, list[str]] = {}
    for step in dict.fromkeys(steps):
        chosen.setdefault(_environment_of(step, searched, flag), []).append(step)
    return found, chosen


def meant(name: str, recorded: Recorded) -> list[str]:
    """Return the recorded steps that a name means: all instances of a step, or one."""
    return [one.name for one in recorded.steps.values() if name in (one.name, one.template)]


def _recorded(
    config: pytest.Config, settings: Settings, say: Callable[..., None]
) -> dict[str, Recorded]:
    found, key = {}, launch.key_of(config)
    for name in names(settings.dir):
        try:
            found[name] = read(settings.dir / FOLDER / name / JOURNAL, key)
        except JournalError as error:
            if name == settings.environment:
                raise
            say(f"environment {name!r} is left alone: {error}", bad=True)
    return found


def _environment_of(step: str, searched: Mapping[str, Recorded], flag: str) -> str:
    having = [name for name, recorded in searched.items() if meant(step, recorded)]
    if len(having) == 1:
        return having[0]
    if DEFAULT_ENVIRONMENT in having:
        return DEFAULT_ENVIRONMENT
    if having:
        raise pytest.UsageError(
            f"{flag}: step {step!r} is in the environments {', '.join(having)}; choose one with "
            "--plan-environment NAME"
        )
    every = dict.fromkeys(name for recorded in searched.values() for name in recorded.steps)
    known = [
        f"{', '.join(recorded.steps)} (environment {name!r})"
        for name, recorded in searched.items()
        if recorded.steps
    ]
    near, left = suggest(step, every), f"earlier runs have left {'; '.join(known) or 'nothing'}"
    raise pytest.UsageError(
        f"{flag}: unknown step {step!r}{f'{near} ({left})' if near else f'; {left}'}"
    )
