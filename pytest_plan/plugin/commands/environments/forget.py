"""Implements `--plan-forget`: removes the records of steps that cannot be cleaned up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.environments.environment import Environment
from pytest_plan.engine.environments.recovery import end_programs, forget
from pytest_plan.engine.journal.reader import Recorded, RecordedStep
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.shared.folders import remove_tree
from pytest_plan.plugin.commands.command import Command
from pytest_plan.plugin.commands.environments.recorded.chosen import by_environment, meant
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
            _, chosen = by_environment(
                self._config, self._settings, self._settings.forget, "--plan-forget", self._say
            )
            for name, steps in chosen.items():
                environment = waiting.claim(name)
                try:
                    self._forget(environment, steps)
                finally:
                    environment.release()
        except JournalError as error:
            raise pytest.UsageError(str(error)) from None
        return self._status

    def _forget(self, environment: Environment, steps: Sequence[str]) -> None:
        recorded = environment.recorded()
        if recorded is None:
            return  # another process has just cleaned it up
        done = []
        names = dict.fromkeys(one for name in steps for one in meant(name, recorded))
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
