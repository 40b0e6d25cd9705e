"""Cleans up the environments of dead runs before this run provisions anything."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_plan.engine.environments import recovery
from pytest_plan.engine.environments.environment import FOLDER, JOURNAL, Environment, names, tidy
from pytest_plan.engine.environments.lock import is_being_cleaned
from pytest_plan.engine.execution.restore import Restorer
from pytest_plan.engine.journal.reader import MOST_OWNERS, Recorded, RecordedStep
from pytest_plan.engine.journal.reference import References
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import JournalError, describe
from pytest_plan.engine.model.events import Event, StepCleaned
from pytest_plan.engine.model.outcomes import CleanupOutcome
from pytest_plan.engine.model.results import StepResult
from pytest_plan.engine.shared.folders import marker_of
from pytest_plan.plugin.compat import pytest_internals
from pytest_plan.plugin.declaring.declared import DeclaredSteps
from pytest_plan.plugin.interface.options import DEFAULT_ENVIRONMENT
from pytest_plan.plugin.main_thread.foreground import Foreground
from pytest_plan.plugin.run import launch
from pytest_plan.plugin.run.hook_caller import own_traceback

if TYPE_CHECKING:
    from pytest_plan.engine.execution.run import Run
    from pytest_plan.engine.journal.journal import Journal

_POLL = 0.1  # seconds between two checks that another process has finished a cleanup


class Recovery(recovery.RecoveryCallbacks):
    """Runs the engine's recovery with the code of conftests and with messages in the terminal.

    Args:
        declared: the steps of this process, which contain the code of the recorded steps.
        foreground: the main thread, on which cleanup runs.
        kept: whether to also clean up environments that were kept on purpose.
        only: the name of the only environment to clean up; None means all.
        beside: the name of an environment to leave alone; None if there is none.
        parent: the folder that contains all environments; None means `plan_dir`.
        is_read: whether the output of this process is read.

    Attributes:
        left: the names of the environments that could not be cleaned up completely.
        in_use_by_runs: the names of the environments of running processes, which are left alone.
    """

    def __init__(
        self,
        declared: DeclaredSteps,
        foreground: Foreground,
        *,
        kept: bool = False,
        only: str | None = None,
        beside: str | None = None,
        parent: Path | None = None,
        is_read: bool = True,
    ) -> None:
        self._declared = declared
        self._foreground = foreground
        self._kept = kept
        self._only = only
        self._beside = beside
        self._is_read = is_read
        self.say = foreground.say
        self.left: list[str] = []
        self.in_use_by_runs: list[str] = []
        self._gone: Mapping[str, str] = {}
        self._being_cleaned: list[str] = []
        self._parent = parent or declared.settings.dir
        references = references_of(declared.config)
        self._recovery = recovery.Recovery(
            self._parent,
            collections.ChainMap(declared.definition.steps, declared.definition.set_aside),
            references,
            self._revive,
            self,
            key=launch.key_of(declared.config),
        )

    def clean_up_all(self) -> None:
        """Clean up every environment without a living owner."""
        try:
            tidy(self._parent)
            self._recovery.clean_up_all()
        except JournalError as error:
            self.left.append(str(self._parent))
            if self._kept:  # a run reports the error itself when it needs the folder
                self.say(f"nothing was cleaned up: {error}", bad=True)

    def wait_for_cleaners(self, seconds: float) -> None:
        """Wait until no other process cleans up an environment, then clean up what it has left.

        Args:
            seconds: how long to wait; an environment that is still being cleaned up is then added
                to `left`.
        """
        clock = SystemClock()
        deadline = clock.now() + seconds
        for name in self._being_cleaned:
            self.say(f"waiting for the process that cleans up environment {name!r}")
        while self._being_cleaned and clock.now() < deadline:
            SystemClock.sleep(_POLL)
            waiting, self._being_cleaned = self._being_cleaned, []
            for name in names(self._parent):
                if name in waiting:
                    self._recovery.clean_up_named(name)
        self.left += self._being_cleaned

    def clean_up(self, environment: Environment, recorded: Recorded) -> None:
        """Clean up an environment that this process owns; see the engine's `Recovery.clean_up`."""
        self._recovery.clean_up(environment, recorded)

    def clean_up_steps(
        self,
        environment: Environment,
        recorded: Recorded,
        steps: Collection[str],
        gone: Mapping[str, str],
    ) -> None:
        """Clean up these steps of the environment; see the engine's `Recovery.clean_up_steps`.

        Args:
            environment: the environment, which this process owns.
            recorded: the content of its journal.
            steps: the steps to clean up.
            gone: the steps that are gone with a dead step, each with that step. A failure of their
                cleanups is expected.
        """
        self._gone = gone
        self._recovery.clean_up_steps(environment, recorded, steps)

    def skips(self, name: str) -> bool:
        """Return whether to leave this environment alone, which nothing may touch now."""
        return name == self._beside or self._only not in (None, name)

    def repaired(self, text: str, file: Path) -> None:
        """Report a repair of an environment."""
        self.say(text)

    def skips_recorded(self, environment: Environment, recorded: Recorded) -> bool:
        """Return whether to leave the environment alone: other runs use it, or it was kept."""
        if (shared := recorded.facts.get("shared")) is not None and not recorded.is_kept:
            from pytest_plan.plugin.run.environments.takeover.needed import is_needed

            if is_needed(shared, self._declared.settings.dir, is_asked=self._kept):
                self._say_shared(environment.name, shared)
                return True
        if not recorded.is_kept or self._kept:
            return False
        command = launch.typed(self._declared.config, environment.name, "--plan-reuse")
        self.say(f"environment {environment.name!r} is kept; to reuse it: {command}")
        return True

    def _say_shared(self, name: str, shared: Mapping[str, Any]) -> None:
        if self._declared.settings.share is not None:
            return  # other runs are expected
        command = launch.typed(self._declared.config, DEFAULT_ENVIRONMENT, "--plan-cleanup")
        cure = "" if shared["is_local"] else f"; if none does: {command}"
        self.say(
            f"environment {name!r} is left alone, because other runs may use {shared['name']!r}, "
            f"as which it is shared{cure}"
        )

    def in_use(self, name: str) -> None:
        """Report that the environment is in use and is left alone."""
        journal = self._parent / FOLDER / name / JOURNAL
        if is_being_cleaned(journal, launch.key_of(self._declared.config)):
            self._being_cleaned.append(name)
            if self._kept:
                return  # `wait_for_cleaners` follows
        self.in_use_by_runs.append(name)
        if self._declared.settings.share is None:  # else other runs are expected
            self.say(f"environment {name!r} is in use and is left alone")

    def exhausted(self, environment: Environment, due: Collection[RecordedStep]) -> None:
        """Report that cleanup was given up, for which steps, and the command that forgets them."""
        self.left.append(environment.name)
        for step in due:
            self.say(not_cleaned_up(self._declared.config, environment.name, step), bad=True)
        self.say(f"its journal is {environment.file}", bad=True)

    def failed(self, name: str, environment: Environment | None, error: JournalError) -> None:
        """Report the error and, if there is a journal, where it is."""
        self._leave(name, environment, str(error))

    def begins(self, environment: Environment, recorded: Recorded, gone: Mapping[str, str]) -> None:
        """Report that the cleanup begins."""
        self._gone = gone
        what = "kept" if recorded.is_kept else "left"
        self.say(f"cleaning up environment {environment.name!r}, {what} {age_of(recorded)} ago")

    def load(self, recorded: Recorded) -> None:
        """Load the conftests that defined steps, and report each one that cannot be loaded."""
        with self._declared.definition.setting_aside():
            self._load(recorded)

    def _load(self, recorded: Recorded) -> None:
        for file in recorded.facts.get("launch", {}).get("conftests", ()):
            try:
                pytest_internals.load_conftest(self._declared.config, file)
            except pytest.UsageError as error:
                cause = error.__cause__ or error
                cause = getattr(cause, "cause", cause)  # pytest's error about a conftest has one
                text = f"{error}; its steps cannot be cleaned up:\n{own_traceback(cause)}"
                self.say(text, bad=True)

    def running(self, run: Run) -> contextlib.AbstractContextManager[None]:
        """Let signals stop the cleanup, and capture its output."""
        return self._foreground.owned(run)

    def remains(self, environment: Environment, due: Collection[RecordedStep]) -> bool:
        """Return whether to keep the environment so that another process can clean it up.

        Anything that only the dead process could undo has already been listed and is then
        forgotten, unless nobody has read the list.
        """
        if due:
            self.left.append(environment.name)
        is_unread = bool(due) and not self._is_read
        stays = is_unread or any(step.can_be_cleaned for step in due)
        for step in due if stays else ():
            self.say(not_cleaned_up(self._declared.config, environment.name, step), bad=True)
        return stays

    def _revive(self, restorer: Restorer, journal: Journal) -> Run:
        from pytest_plan.engine.execution.run import revive

        options = self._declared.definition.options
        options = launch.options_of(restorer.recorded, options)
        return revive(
            restorer,
            options,
            journal,
            clock=SystemClock(),
            listeners=[self._report],
            scratch=scratch_of(restorer.recorded),
        )

    def _leave(self, name: str, environment: Environment | None, reason: str) -> None:
        self.left.append(name)
        self.say(f"environment {name!r} was not cleaned up: {reason}", bad=True)
        if environment is not None and str(environment.file) not in reason:
            self.say(f"its journal is {environment.file}")

    def _report(self, event: Event) -> None:
        if not isinstance(event, StepCleaned):
            return
        cleanup = event.result.cleanup
        is_bad = cleanup.outcome is not CleanupOutcome.SUCCEEDED
        if is_bad and (dead := self._gone.get(event.result.name)) is not None:
            self.say(_gone(event.result, dead))
            return
        text = f"  {event.result.name}  cleanup {cleanup.outcome.value.replace('_', ' ')}"
        self.say(f"{text} {format_duration(cleanup.seconds)}", bad=is_bad)
        for error in cleanup.errors:
            cause = error.__cause__ or error
            for note in getattr(error, "__notes__", ()):
                self.say(f"    {note}: {describe(cause)}", bad=True)


def error_of(step: RecordedStep) -> str:
    """Return why a recorded step was not cleaned up, on one line."""
    if step.cleanup in ("none", "kept"):
        return "its cleanup did not run"
    return step.cleanup_error or "its cleanup was interrupted"


def not_cleaned_up(config: pytest.Config, environment: str, step: RecordedStep) -> str:
    """Return the message that a step was not cleaned up, with the command that forgets it."""
    tries = f"; its cleanup failed {MOST_OWNERS} times and was given up"
    command = launch.typed(config, environment, "--plan-forget", step.name)
    return (
        f"{step.name} was not cleaned up: {error_of(step)}{tries if step.is_exhausted else ''}; "
        f"to forget it: {command}"
    )


def _gone(result: StepResult, dead: str) -> str:
    where = "" if dead == result.name else f" with {dead!r}"
    error = result.cleanup.errors[0].summary if result.cleanup.errors else "it did not end"
    return f"  {result.name}  gone{where}; its cleanup failed: {error}"


def references_of(config: pytest.Config) -> References:
    """Return an object that finds recorded functions, even if a conftest's module name differs."""
    import sys

    def modules() -> list[Any]:
        return [*config.pluginmanager.get_plugins(), *list(sys.modules.values())]

    return References(config.rootpath, modules)


def scratch_of(recorded: Recorded) -> Path | None:
    """Return the temporary folder of a recorded run, or None if it is missing or not ours."""
    text = recorded.facts.get("scratch")
    if text is None or not (folder := Path(text)).name.startswith("plan-"):
        return None
    if marker_of(folder) is not None:
        return folder
    with contextlib.suppress(OSError):
        folder.rmdir()  # a run that was killed before it marked the folder has left it empty
    return None


def age_of(recorded: Recorded) -> str:
    """Return how long ago the recorded run began, as text."""
    now = SystemClock.wall()
    return format_duration(max(0.0, now - recorded.facts.get("since", now)))
