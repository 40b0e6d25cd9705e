"""Implements `--plan-forget`: removes the records of steps that cannot be cleaned up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.environments.environment import FOLDER, JOURNAL, Environment, names
from pytest_plan.engine.environments.recovery import end_programs, forget
from pytest_plan.engine.journal.reader import Recorded, RecordedStep, read
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.shared.folders import remove_tree
from pytest_plan.plugin.commands.command import Command
from pytest_plan.plugin.interface.options import DEFAULT_ENVIRONMENT
from pytest_plan.plugin.run import launch
from pytest_plan.plugin.run.environments.recovery import references_of, scratch_of
from pytest_plan.plugin.run.environments.waiting import Waiting

if TYPE_CHECKING:
    from pytest_plan.plugin.session.session import PlanSession

_LONGEST = 200  # characters of a value that are shown


class Forget(Command):
    """Ends the programs of the named steps, removes their records, and lists what may be left."""

    def run(self, plan_session: PlanSession) -> pytest.ExitCode:
        """Forget the steps; the exit status is 1 if a program could not be ended.

        Raises:
            pytest.UsageError: a step or the environment is unknown, or the environment is in use.
        """
        self._say = plan_session.host.foreground.say
        self._key = launch.key_of(self._config)
        foreground = plan_session.host.foreground
        waiting = Waiting(self._settings.dir, self._key, self._settings.wait, foreground)
        try:
            chosen = self._chosen()
            for name, steps in chosen.items():
                environment = waiting.claim(name)
                try:
                    self._forget(environment, steps)
                finally:
                    environment.release()
        except JournalError as error:
            raise pytest.UsageError(str(error)) from None
        return self._status

    def _chosen(self) -> dict[str, list[str]]:
        """Return the steps to forget by environment."""
        found = self._recorded()
        only = self._settings.environment
        if only is not None and only not in found:
            known = ", ".join(found) or "none"
            raise pytest.UsageError(
                f"{self._settings.sources['environment']}: there is no environment {only!r}; "
                f"known environments: {known}"
            )
        chosen: dict[str, list[str]] = {}
        for step in dict.fromkeys(self._settings.forget):
            chosen.setdefault(self._environment_of(step, found), []).append(step)
        return chosen

    def _recorded(self) -> dict[str, Recorded]:
        found = {}
        for name in names(self._settings.dir):
            try:
                found[name] = read(self._settings.dir / FOLDER / name / JOURNAL, self._key)
            except JournalError as error:
                if name == self._settings.environment:
                    raise
                self._say(f"environment {name!r} is left alone: {error}", bad=True)
        return found

    def _environment_of(self, step: str, found: Mapping[str, Recorded]) -> str:
        only = self._settings.environment
        having = [
            name
            for name, recorded in found.items()
            if _meant(step, recorded) and only in (None, name)
        ]
        if len(having) == 1:
            return having[0]
        if DEFAULT_ENVIRONMENT in having:
            return DEFAULT_ENVIRONMENT
        if having:
            raise pytest.UsageError(
                f"--plan-forget: step {step!r} is in the environments {', '.join(having)}; choose "
                "one with --plan-environment NAME"
            )
        known = [
            f"{', '.join(recorded.steps)} (environment {name!r})"
            for name, recorded in found.items()
            if recorded.steps and only in (None, name)
        ]
        raise pytest.UsageError(
            f"--plan-forget: unknown step {step!r}; earlier runs have left "
            f"{'; '.join(known) or 'nothing'}"
        )

    def _forget(self, environment: Environment, steps: Sequence[str]) -> None:
        recorded = environment.recorded()
        if recorded is None:
            return  # another process has just cleaned it up
        done = []
        names = dict.fromkeys(one for name in steps for one in _meant(name, recorded))
        for step in (recorded.steps[name] for name in names):
            try:
                ended = end_programs(step)
            except TimeoutError as error:
                self._status = pytest.ExitCode.TESTS_FAILED
                self._say(f"{step.name} is not forgotten: {error}", bad=True)
                continue
            done.append(step.name)
            missing = _not_run(step)
            text = f"forgot {step.name!r} of environment {environment.name!r}"
            self._say(text, bad=bool(missing))
            if ended:
                self._say(f"  ended {', '.join(ended)}")
            for one in missing:
                self._say(f"  not run: {one}", bad=True)
            if missing:
                self._say(f"  {_what_may_be_left(step, recorded)}", bad=True)
        forget(environment, recorded, done, references_of(self._config))
        self._remove(environment, done)

    def _remove(self, environment: Environment, steps: Sequence[str]) -> None:
        """Remove the folders of the steps, and the environment if nothing is in it any more."""
        recorded = environment.read()
        is_over = not (recorded.steps if recorded.is_kept else recorded.due())
        scratch = scratch_of(recorded)
        if scratch is not None:
            folders: list[Path] = [scratch] if is_over else [scratch / name for name in steps]
            for folder in folders:
                for left in remove_tree(folder, below=scratch.parent):
                    self._say(f"  may be left: {left}", bad=True)
        environment.release(remove=is_over)


def _meant(name: str, recorded: Recorded) -> list[str]:
    """Return the recorded steps that a name means: all instances of a step, or one."""
    return [one.name for one in recorded.steps.values() if name in (one.name, one.template)]


def _not_run(step: RecordedStep) -> list[str]:
    """Return the cleanups of a step that have not run, as text."""
    found = []
    if step.hook_is_due:
        function = step.cleanup_function
        where = "" if function is None else f", {function[1]} in {function[2] or function[0]}"
        found.append(f"its cleanup hook{where}")
    found += [
        f"its deferred call of {undo.label}"
        for undo in reversed(step.undos)
        if undo.kind not in ("tree", "variable")
    ]
    return found


def _what_may_be_left(step: RecordedStep, recorded: Recorded) -> str:
    value = recorded.state.get(step.name)
    text = "what these would have removed may be left"
    if value is None:
        return text
    shown = value if len(value) <= _LONGEST else f"{value[:_LONGEST]}..."
    return f"{text}; the value of the step was {shown}"
