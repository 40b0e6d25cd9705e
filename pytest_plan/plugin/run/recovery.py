"""Cleans up what runs have left that were killed, before this one makes anything."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.environments.environment import Environment, claimed, names, tidy
from pytest_plan.engine.execution.restore import Restorer
from pytest_plan.engine.journal.reader import MOST_OWNERS, Recorded, read
from pytest_plan.engine.journal.reference import References
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import JournalError, describe
from pytest_plan.engine.model.events import Event, StepCleaned
from pytest_plan.engine.model.outcomes import CleanupOutcome
from pytest_plan.plugin.compat import pytest_internals
from pytest_plan.plugin.declaring.declared import DeclaredSteps
from pytest_plan.plugin.main_thread.foreground import Foreground

BY_REAPER = "PYTEST_PLAN_BY_REAPER"  # set where nobody reads what is said


class Recovery:
    """Cleans up environments whose owner is dead.

    Args:
        declared: the steps of this process: they have the code.
        foreground: the main thread, on which they are cleaned up.

    Attributes:
        left: the environments of which something is left.
    """

    def __init__(self, declared: DeclaredSteps, foreground: Foreground) -> None:
        self._declared = declared
        self._foreground = foreground
        self.say = foreground.say
        self.left: list[str] = []

    @property
    def parent(self) -> Path:
        """The folder with all environments."""
        return self._declared.settings.dir

    def clean_up_all(self, *, kept: bool, beside: str | None = None) -> None:
        """Clean up every environment without an owner.

        Args:
            kept: whether also those that were kept on purpose.
            beside: the name of one that the caller looks after.
        """
        tidy(self.parent)
        for name in names(self.parent):
            if name == beside:
                continue
            try:
                with claimed(self.parent, name) as environment:
                    self._look_at(name, environment, kept=kept)
            except JournalError as error:
                self.left.append(name)
                self.say(f"environment {name!r} is not cleaned up: {error}", bad=True)

    def _look_at(self, name: str, environment: Environment | None, *, kept: bool) -> None:
        if environment is None:
            self.say(f"environment {name!r} is in use, and left alone")
            return
        try:
            recorded = environment.recorded()
        except JournalError as error:
            self._leave(environment, str(error))
            return
        if recorded is None:
            return
        if recorded.is_kept and not kept:
            self.say(f"environment {name!r} is kept: --plan-reuse uses it")
            return
        self.clean_up(environment, recorded)

    def clean_up(self, environment: Environment, recorded: Recorded) -> None:
        """Clean up an environment that we have, and let go of it when something could be done.

        Args:
            environment: its owner is dead, or has kept it.
            recorded: what its journal tells.

        Raises:
            JournalError: its journal cannot be read or written any more.
        """
        if recorded.exhausted():
            self._leave(environment, f"{MOST_OWNERS} processes have tried in vain to clean it up")
            return
        what = "kept" if recorded.is_kept else "left"
        self.say(f"cleaning up environment {environment.name!r}, {what} {_age(recorded)} ago")
        self.clean_up_steps(environment, recorded, recorded.steps)
        environment.release(remove=not self._is_left(environment))

    def clean_up_steps(
        self, environment: Environment, recorded: Recorded, steps: Collection[str]
    ) -> None:
        """Clean up these steps of an environment that is ours, in reverse."""
        plan = self._declared.plan
        for file in recorded.facts.get("launch", {}).get("conftests", ()):
            self._load(file)
        references = references_of(self._declared.config)
        restorer = Restorer(recorded, steps, plan.declared, references)
        journal = environment.open(references, lambda name: recorded.steps[name].fingerprint)
        whole = len(steps) == len(recorded.steps)
        scratch = scratch_of(recorded)
        run = plan.revive(
            restorer, journal, listeners=[self._hear], scratch=scratch if whole else None
        )
        with self._foreground.owned(run):
            run.clean_up(reason="recovery")

    def _load(self, file: str) -> None:
        try:
            pytest_internals.load_conftest(self._declared.config, file)
        except pytest.UsageError as error:
            self.say(f"{error}; its steps cannot be cleaned up", bad=True)

    def _is_left(self, environment: Environment) -> bool:
        due = read(environment.file).due()
        if due:
            self.left.append(environment.name)
        # What nobody can take back was named, and is forgotten, unless nobody has read it.
        return any(step.can_be_cleaned for step in due) or (bool(due) and BY_REAPER in os.environ)

    def _leave(self, environment: Environment, reason: str) -> None:
        self.left.append(environment.name)
        self.say(f"environment {environment.name!r} is not cleaned up: {reason}", bad=True)
        self.say(f"its journal is {environment.file}")

    def _hear(self, event: Event) -> None:
        if not isinstance(event, StepCleaned):
            return
        cleanup = event.result.cleanup
        is_bad = cleanup.outcome is not CleanupOutcome.SUCCEEDED
        text = f"  {event.result.name}  cleanup {cleanup.outcome.value.replace('_', ' ')}"
        self.say(f"{text} {format_duration(cleanup.seconds)}", bad=is_bad)
        for error in cleanup.errors:
            cause = error.__cause__ or error
            for note in getattr(error, "__notes__", ()):
                self.say(f"    {note}: {describe(cause)}", bad=True)


def references_of(config: pytest.Config) -> References:
    """Return what finds functions again, also in conftests, whatever their module is called."""
    import sys

    def modules() -> list[Any]:
        return [*config.pluginmanager.get_plugins(), *list(sys.modules.values())]

    return References(config.rootpath, modules)


def scratch_of(recorded: Recorded) -> Path | None:
    """Return the temporary folder of a recorded run, None when it is not there, or not ours."""
    text = recorded.facts.get("scratch")
    if text is None:
        return None
    folder = Path(text)
    is_ours = folder.is_dir() and not folder.is_symlink() and folder.name.startswith("plan-")
    if not is_ours or (hasattr(os, "geteuid") and folder.stat().st_uid != os.geteuid()):
        return None
    return folder


def _age(recorded: Recorded) -> str:
    return format_duration(max(0.0, time.time() - recorded.facts.get("since", time.time())))
