"""The environment of this run: its folder and journal, and what becomes of them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.environment import Environment, names
from pytest_plan.engine.errors import JournalError
from pytest_plan.engine.events import Event, StepFinished
from pytest_plan.engine.journal import Journal
from pytest_plan.engine.reaper import Reaper
from pytest_plan.engine.recorded import read
from pytest_plan.plugin import launch
from pytest_plan.plugin.recovery import BY_REAPER, Recovery, references_of
from pytest_plan.plugin.warn import warn

if TYPE_CHECKING:
    from pytest_plan.plugin.session import PlanSession


class RunEnvironment:
    """The environment of this run, ours until `finish`.

    Args:
        plan: the plan of this process.
        run_id: names an environment that has no name.

    Attributes:
        journal: what the run writes in.
    """

    def __init__(self, plan: PlanSession, run_id: str) -> None:
        self._plan = plan
        if names(plan.settings.dir):
            Recovery(plan, []).clean_up_all(kept=False)
        self._environment = self._claim(run_id)
        self.journal = self._open()
        self._reaper: Reaper | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self._environment.name

    def guard(self, remaining: float | None) -> None:
        """Have somebody clean up if this process is killed; `remaining` seconds of the limit."""
        if not self._plan.settings.reaper:
            return
        if self._reaper is None:
            self._start_reaper()
        elif not self._reaper.is_alive():
            self._revive_reaper()
        if self._reaper is not None:
            self._reaper.limit(remaining)

    def hear(self, event: Event) -> None:
        """Notice between two steps that the reaper has died."""
        if isinstance(event, StepFinished) and self._reaper and not self._reaper.is_alive():
            self._revive_reaper()

    def unlimited(self) -> None:
        """Let the reaper wait however long it takes: somebody debugs, or cleanup has begun."""
        if self._reaper is not None:
            self._reaper.limit(None)

    def _start_reaper(self) -> None:
        folder = self._environment.folder
        facts = launch.describe(self._plan.config, self._files())
        variables = launch.environ(facts, os.environ)
        try:
            self._reaper = Reaper(
                self._environment.file,
                launch.command(facts, folder.parent.parent),
                {**variables, BY_REAPER: "1"},
                folder / "reaper.log",
            )
        except OSError as error:
            warn(
                self._plan.config,
                f"the reaper cannot be started ({error}): when pytest is killed, the next run "
                "or `pytest --plan-cleanup` cleans up",
            )

    def _revive_reaper(self) -> None:
        assert self._reaper is not None
        again = self._reaper.restarts == 0
        what = "it is started again" if again else "from now on nobody watches over this run"
        warn(self._plan.config, f"the reaper (process {self._reaper.pid}) has died: {what}")
        if again:
            with contextlib.suppress(OSError):  # then it is found dead once more
                self._reaper.restart()
        else:
            self._reaper.stop()
            self._reaper = None

    def finish(self, *, is_clean: bool) -> None:
        """Let go of it; its journal stays only when a later process can still do something.

        Args:
            is_clean: whether everything has been taken back, as far as this process knows.
        """
        is_left = not is_clean
        if self.journal.failure is None:
            with contextlib.suppress(JournalError):
                is_left = bool(read(self._environment.file).due())
        if self._reaper is not None:
            self._reaper.stop()
        if not is_left:
            (self._environment.folder / "reaper.log").unlink(missing_ok=True)
        self._environment.release(remove=not is_left)

    def _files(self) -> list[str]:
        return [declaration.file for declaration in self._plan.declarations.values()]

    def _claim(self, run_id: str) -> Environment:
        name = self._plan.settings.environment
        try:
            return Environment(self._plan.settings.dir, name or f"run-{run_id}")
        except JournalError as error:
            if name is not None:
                raise pytest.UsageError(str(error)) from None
            folder = Path(tempfile.mkdtemp(prefix="plan-journal-"))
            warn(self._plan.config, f"{error}; the journal of this run is in {folder}")
            return Environment(folder, f"run-{run_id}")

    def _open(self) -> Journal:
        config = self._plan.config
        try:
            journal = self._environment.open(references_of(config), lambda step: "")
            journal.set(launch=launch.describe(config, self._files()))
        except JournalError as error:
            self._environment.release(remove=True)
            raise pytest.UsageError(str(error)) from None
        return journal
