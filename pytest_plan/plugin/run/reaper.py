"""Starts the reaper for this run, and notices when it dies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_plan.engine.environments.environment import LOG, Environment
from pytest_plan.engine.environments.reaper import Reaper
from pytest_plan.engine.model.events import Event, StepFinished
from pytest_plan.engine.processes.identity import Identity
from pytest_plan.plugin.compat.pytest_internals import warn
from pytest_plan.plugin.run import launch

if TYPE_CHECKING:
    import pytest


class Watch:
    """The reaper of one run; there is none if `plan_reaper` is false.

    Args:
        config: the config of this process.
        environment: the environment that the reaper cleans up if this process is killed.
        facts: the facts about how this run was started; see `launch.describe`.
        workers: the workers that the reaper kills first if this process is killed.
        wanted: whether to start a reaper.

    Attributes:
        variables: further environment variables for the reaper.
        is_left: whether the reaper is to clean up when this process ends.
    """

    def __init__(
        self,
        config: pytest.Config,
        environment: Environment,
        facts: Mapping[str, Any],
        workers: Collection[Identity],
        *,
        wanted: bool,
    ) -> None:
        self._wanted = wanted
        self._workers = workers
        self._config = config
        self._environment = environment
        self._facts = facts
        self._reaper: Reaper | None = None
        self.variables: dict[str, str] = {}
        self.is_left = False

    def begin(self, remaining: float | None) -> None:
        """Start the reaper if it is not running, and tell it how much time is left until the limit.

        Args:
            remaining: the seconds left until the limit; None means no limit.
        """
        if self._reaper is None and self._wanted:
            self._wanted = False  # if it cannot be started, one warning is enough
            self._start()
        self._check()
        if self._reaper is not None:
            self._reaper.limit(remaining)

    def on_event(self, event: Event) -> None:
        """Check after each step that the reaper is alive."""
        if isinstance(event, StepFinished):
            self._check()

    def guard(self, worker: Identity) -> None:
        """Tell the reaper, if it is running, about a worker that has started since."""
        if self._reaper is not None:
            self._reaper.guard(worker)

    def follow(self, journal: Path) -> None:
        """Tell the reaper, if it is running, that the journal was written again; from any thread.

        Args:
            journal: the path of the journal.
        """
        if self._reaper is not None:
            self._reaper.follow(journal)

    def unlimited(self) -> None:
        """Lift the limit, because a debugger is open or cleanup has begun."""
        if self._reaper is not None:
            self._reaper.limit(None)

    def leave(self) -> bool:
        """Leave the cleanup to the reaper; return whether there is one."""
        self.is_left = True
        return self._reaper is not None and self._reaper.is_alive()

    def end(self, *, is_done: bool = False) -> None:
        """Stop the reaper, unless the cleanup is left to it.

        Args:
            is_done: whether nothing is left to it any more.
        """
        if self._reaper is not None and (is_done or not self.is_left):
            self._reaper.stop()
            self._reaper = None

    def _start(self) -> None:
        folder = self._environment.folder
        try:
            self._reaper = Reaper(
                self._environment.file,
                launch.command(self._facts, folder.parent.parent),
                launch.environ(self._facts, os.environ, self._environment.key) | self.variables,
                folder / LOG,
            )
        except OSError as error:
            warn(
                self._config,
                f"the reaper cannot be started ({error}): if pytest is killed, the next run or "
                "`pytest --plan-cleanup` will clean up",
            )
            return
        for worker in self._workers:
            self._reaper.guard(worker)

    def _check(self) -> None:
        reaper = self._reaper
        if reaper is None or reaper.is_alive():
            return
        again = reaper.restarts == 0
        what = "it is restarted" if again else "this run continues without one"
        warn(self._config, f"the reaper (process {reaper.pid}) has died: {what}")
        if again:
            with contextlib.suppress(OSError):  # the next check finds it dead again
                reaper.restart()
        else:
            self.end()
