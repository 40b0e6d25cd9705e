"""Claims the environment of this run, reuses kept steps, and finally keeps or removes it."""

from __future__ import annotations

import collections
import contextlib
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.environments.environment import (
    FOLDER,
    LOG,
    ElsewhereError,
    Environment,
    remove_empty,
)
from pytest_plan.engine.environments.fingerprint import Fingerprints
from pytest_plan.engine.environments.keeping import obstacles
from pytest_plan.engine.environments.lock import was_kept_elsewhere
from pytest_plan.engine.environments.private import temporary_parent
from pytest_plan.engine.environments.recovery import not_undone
from pytest_plan.engine.execution.restore import Restorer, block, log_names
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.reader import ForeignError, Recorded, RecordedStep
from pytest_plan.engine.journal.seal import seal_secrets
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.model.secret import KEY_VARIABLE
from pytest_plan.engine.processes.identity import Identity
from pytest_plan.engine.shared.folders import private_file_in, remove_tree
from pytest_plan.plugin.compat.pytest_internals import warn
from pytest_plan.plugin.declaring.declared import DeclaredSteps
from pytest_plan.plugin.interface.options import DEFAULT_ENVIRONMENT
from pytest_plan.plugin.main_thread.foreground import Foreground
from pytest_plan.plugin.run import launch
from pytest_plan.plugin.run.environments.recovery import (
    Recovery,
    age_of,
    error_of,
    not_cleaned_up,
    references_of,
    scratch_of,
)
from pytest_plan.plugin.run.environments.reuse import clean_stale, decide
from pytest_plan.plugin.run.environments.waiting import Waiting
from pytest_plan.plugin.run.files.artifacts import made_by
from pytest_plan.plugin.run.reaper import Watch

if TYPE_CHECKING:
    from pytest_plan.engine.execution.run import Run


class RunEnvironment:
    """The environment of this run; this process owns it until `finish` is called.

    Args:
        declared: the steps of this process.
        foreground: the main thread.
        run_id: the id of the run, from which an unnamed environment gets its name.
        workers: the workers of this run on this machine; the list grows later.

    Attributes:
        watch: the reaper of this environment.
        journal: the journal of the run.
        scratch: the temporary folder of the run that this one continues; None if there is none.
        is_replaced: whether `plan_dir` cannot be used, so that the journal is in a temporary
            folder; a warning has given the reason.

    Raises:
        pytest.UsageError: another process uses the named environment, or the journal cannot be
            written.
    """

    def __init__(
        self,
        declared: DeclaredSteps,
        foreground: Foreground,
        run_id: str,
        workers: Collection[Identity],
    ) -> None:
        self._declared = declared
        self._foreground = foreground
        self._recovery = Recovery(declared, foreground, beside=declared.settings.environment_name)
        settings = declared.settings
        self._key = launch.key_of(declared.config)
        self._check_key()
        self._keeps = settings.keeps
        self._name = settings.environment_name
        self._waiting = Waiting(settings.dir, self._key, settings.wait, foreground)
        self._steps = declared.steps
        self.is_replaced = False
        self._repairs: collections.deque[str] = collections.deque()  # noted by any thread
        if os.path.lexists(settings.dir / FOLDER):
            self._recovery.clean_up_all()
        self._run_id = run_id
        try:
            self._environment = self._claim()
        except (JournalError, OSError) as error:
            raise pytest.UsageError(str(error)) from None
        host = declared.definition.options.host
        self._prints = Fingerprints(lambda: declared.steps, host)
        self._fresh: Mapping[str, str] = {}
        self._held: dict[str, str] = {}  # why each step cannot be provisioned
        self._kept: Collection[str] = ()
        self._has_said_hidden = False
        self._facts = launch.describe(declared.config, declared.conftests(), host)
        try:
            self._recorded = self._look_back()
            self.watch = Watch(
                declared.config, self._environment, self._facts, workers, wanted=settings.reaper
            )
            self.journal = self._open(run_id)
        except BaseException as error:
            self._environment.release()
            if isinstance(error, (JournalError, OSError)):
                raise pytest.UsageError(str(error)) from None
            raise
        self.scratch = None if self._recorded is None else scratch_of(self._recorded)

    def note_conftests(self) -> None:
        """Record the conftests that were loaded since the run began, as after eager steps.

        Raises:
            JournalError: the journal cannot be written.
        """
        conftests = self._declared.conftests()
        if conftests != self._facts["conftests"]:
            self._facts = {**self._facts, "conftests": conftests}
            self.journal.set(launch=self._facts)

    @property
    def name(self) -> str:
        """The name of the environment; without one, `run-` followed by the run id."""
        return self._environment.name

    @property
    def has_failed(self) -> bool:
        """Whether a declared step of an earlier run could not be cleaned up."""
        return not self._held.keys().isdisjoint(self._steps)

    def say_repairs(self) -> None:
        """Report, on the main thread, that the journal or its folder was lost and repaired."""
        while self._repairs:
            self._foreground.say(self._repairs.popleft(), bad=True)

    def _note_repair(self, text: str, file: Path) -> None:
        self._repairs.append(text)
        self.watch.follow(file)

    def reuse(self, run: Run) -> None:
        """Restore the steps that this run reuses; block those that cannot be provisioned."""
        self._announce(run)
        for name in self._held.keys() & run.step_runs.keys():
            block(run.step_runs[name], run.facts, self._held[name])
        if self._recorded is not None and self._fresh:
            references = references_of(self._declared.config)
            restorer = Restorer(self._recorded, self._fresh, self._steps, references, self._key)
            run.restore(restorer, self._fresh)

    def say_hidden(self, run: Run) -> None:
        """Report the reused steps whose logs cannot be shown, once all steps have succeeded."""
        hidden = [name for name in self._fresh if run.step_runs[name].log.is_hidden]
        if hidden and not self._has_said_hidden:
            self._has_said_hidden = True
            self._say(
                f"the programs of {', '.join(hidden)} may write a secret that only an earlier run "
                "knew, so their logs are not shown"
            )

    def keep(self, run: Run, *, failed: bool) -> Collection[str]:
        """Return the steps to leave as they are, and report which cannot be kept and why.

        Args:
            run: the run.
            failed: whether a step, a test or a cleanup failed, the limit was reached, or a signal
                was received.
        """
        if self._keeps == "never" or (self._keeps == "failed" and not failed):
            return self._held
        try:
            self.journal.flush()
            recorded = self._environment.read()
        except JournalError:
            return self._held
        cannot = obstacles(recorded)
        for name, reason in cannot.items():
            self._say(f"{name} is not kept: {reason}")
        self._kept = [name for name in recorded.steps if name not in {*cannot, *self._held}]
        if self._kept:
            self.journal.set(status="kept", secrets=self._secrets(run, recorded))
        return [*self._kept, *self._held]

    def _secrets(self, run: Run, recorded: Recorded) -> dict[str, list[str]]:
        """Return the seals of the secrets that kept steps have made known, by step."""
        seal = self._key.seal(recorded.facts["id"])
        seals = {**recorded.facts.get("secrets", {})}
        for name in self._kept:
            if name not in self._fresh:
                seals[name] = seal_secrets(run.step_runs[name].log.secrets, seal)
        return {name: seals[name] for name in self._kept if seals.get(name)}

    def abandon(self) -> None:
        """Release the environment of a run that could not begin; steps that were kept stay kept."""
        self.watch.end()
        with contextlib.suppress(JournalError):
            if self._fresh:
                self.journal.set(status="kept")
            self.journal.close()
        self._environment.release(remove=not (self._fresh or self._held))

    def finish(self, *, is_clean: bool, was_left: bool) -> None:
        """Release the environment; keep its journal only if a later process could still clean up.

        Args:
            is_clean: whether everything was undone, as far as this process knows.
            was_left: whether a signal ended the cleanup early, so that the reaper completes it.
        """
        if not was_left:
            self.watch.end()
        is_left = bool(self._kept) or self._is_left(is_clean=is_clean)
        if not is_left:
            (self._environment.folder / LOG).unlink(missing_ok=True)
        self._environment.release(remove=not is_left)
        if self._kept:
            self._say_how_to_go_on()
        elif is_left and not self.watch.is_left:
            command = launch.typed(self._declared.config, DEFAULT_ENVIRONMENT, "--plan-cleanup")
            self._foreground.say(f"cleanup is incomplete; to finish it: {command}", bad=True)

    def _check_key(self) -> None:
        """Say that the key of the journal will be lost; refuse to keep anything that needs it."""
        problem = self._key.problem
        if problem is None:
            return
        cure = f"make the folder writable, or set {KEY_VARIABLE}"
        settings = self._declared.settings
        if settings.environment_name is not None:
            raise pytest.UsageError(
                "nothing can be kept or reused, because the key that seals the journal cannot be "
                f"stored ({problem}): {cure}"
            )
        self._say(
            f"the key that seals the journal cannot be stored ({problem}), so only this run and "
            f"its reaper can clean up: {cure}"
        )

    def _is_left(self, *, is_clean: bool) -> bool:
        """Return whether a later process could still clean something up, judging by the journal."""
        if self.journal.failure is None:
            with contextlib.suppress(JournalError):
                due = self._environment.read().due()
                return any(step.can_be_cleaned for step in due)
        return not is_clean

    def _look_back(self) -> Recorded | None:
        """Clean up the recorded steps that are not reused; return what is recorded then.

        Return None if no step is recorded.
        """
        recorded = self._read_back()
        if recorded is not None and not recorded.is_kept:
            self._recovery.clean_up(self._environment, recorded)
            self._environment.release()
            self._environment = self._claim()
            recorded = self._environment.recorded()
            if recorded is not None:
                self._hold(recorded.due())
                self._empty_folders(recorded)
            return recorded
        if recorded is None or not recorded.steps:
            return None
        if was_kept_elsewhere(recorded):
            where = f"{recorded.facts.get('host')}, {age_of(recorded)} ago"
            self._say(f"environment {self._environment.name!r} was kept on {where}")
        decisions = decide(self._declared, self._foreground, recorded, self._steps, self._prints)
        self._fresh = decisions.fresh
        if not decisions.stale:
            return recorded
        clean_stale(self._recovery, self._environment, recorded, decisions, self._steps)
        after = self._environment.read()
        self._hold(not_undone(after, decisions.stale, decisions.gone))
        self._empty_folders(after, recorded)
        return after

    def _read_back(self) -> Recorded | None:
        """Return the content of the journal that earlier runs have left; None if there is none."""
        self._environment.on_repair = lambda text, file: self._say(text)
        try:
            return self._environment.recorded()
        except ForeignError as error:
            if not self._declared.settings.may_begin_fresh:
                raise
            self._environment.release()
            self._environment = self._begin_fresh(error)
            return None

    def _claim_named(self, name: str) -> Environment:
        try:
            return self._waiting.claim(name)
        except (ForeignError, ElsewhereError) as error:
            if self._declared.settings.may_begin_fresh:
                return self._begin_fresh(error)
            raise

    def _begin_fresh(self, error: JournalError) -> Environment:
        """Return a private environment for a run that can reuse nothing, and report why."""
        self._say(f"nothing is reused, and this run keeps nothing: {error}", always=True)
        self._name, self._keeps = None, "never"
        return self._claim()

    def _hold(self, steps: Iterable[RecordedStep]) -> None:
        """Note the steps that cannot be provisioned, because the old ones were not cleaned up."""
        for step in steps:
            self._held[step.name] = (
                f"the earlier {step.name!r} was not cleaned up: {error_of(step)}"
            )
            self._say(not_cleaned_up(self._declared.config, self._environment.name, step), bad=True)

    def _empty_folders(self, recorded: Recorded, before: Recorded | None = None) -> None:
        """Empty the temporary folder of each recorded step that may be provisioned again.

        Args:
            recorded: the content of the journal.
            before: its content before the cleanup, which names the files of logs to remove.
        """
        if (scratch := scratch_of(recorded)) is None:
            return
        for name in recorded.steps:
            if name in self._fresh or name in self._held:
                continue
            for log in log_names(before.steps[name]) if before is not None else ():
                if (path := private_file_in(scratch, log)) is not None:
                    path.unlink(missing_ok=True)
            for left in remove_tree(scratch / name, below=scratch):
                self._say(f"the temporary folder of {name!r} is not empty: {left}", bad=True)

    def _open(self, run_id: str) -> Journal:
        # An unnamed environment is never reused, so its fingerprints are never compared.
        prints = (lambda step: "") if self._name is None else self._prints.of
        references = references_of(self._declared.config)
        self._environment.on_repair = self._note_repair
        left = self._fresh.keys() | self._held.keys()
        facts = {"launch": self._facts, "forgotten": [], "run": run_id}
        facts["made"] = {} if self._recorded is None else made_by(self._recorded, left)
        journal = self._environment.open(
            references, prints, outlives=self._keeps != "never", **facts
        )
        if self._recorded is not None:
            journal.forget(name for name in self._recorded.steps if name not in left)
        return journal

    def _claim(self) -> Environment:
        if self._name is not None:
            return self._claim_named(self._name)
        own = f"run-{self._run_id}"
        try:
            return Environment(self._declared.settings.dir, own, self._key)
        except JournalError as error:
            folder = temporary_parent()
            warn(self._declared.config, f"{error}; the journal of this run is in {folder}")
            self.is_replaced = True
            try:
                return Environment(folder, own, self._key)
            except (JournalError, OSError):
                remove_empty(folder, own)
                raise

    def _announce(self, run: Run) -> None:
        if self._keeps == "never":
            return
        for name in self._declared.needed or ():
            if name not in self._fresh and run.step_runs[name].planned.is_generator:
                self._say(
                    f"{name} will not be kept, because it is a generator; to keep it, return its "
                    "value and give it cleanup=FUNCTION"
                )

    def _say_how_to_go_on(self) -> None:
        if self._declared.settings.up:
            return  # the command itself says it, at the end of its output
        reuse, clean = (
            launch.typed(self._declared.config, self._environment.name, option)
            for option in ("--plan-reuse", "--plan-cleanup")
        )
        kept = f"kept: {', '.join(self._kept)}"
        if self._foreground.is_quiet:
            self._foreground.say(f"{kept}; to clean up: {clean}", always=True)
            return
        self._say(kept)
        self._say(f"to reuse it:    {reuse}")
        self._say(f"to clean it up: {clean}")

    def _say(self, text: str, *, bad: bool = False, always: bool = False) -> None:
        self._foreground.say(text, bad=bad, always=always)
