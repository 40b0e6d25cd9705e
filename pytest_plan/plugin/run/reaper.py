"""Has the reaper watch over this run, and notices when nobody does any more."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_plan.engine.environments.environment import Environment
from pytest_plan.engine.environments.reaper import Reaper
from pytest_plan.engine.model.events import Event, StepFinished
from pytest_plan.plugin.compat.pytest_internals import warn
from pytest_plan.plugin.run import launch
from pytest_plan.plugin.run.recovery import BY_REAPER

if TYPE_CHECKING:
    import pytest

LOG = "reaper.log"


class Watch:
    """The reaper of one run; none when `plan_reaper` is false.

    Args:
        config: of this process.
        environment: what is to be cleaned up.
        facts: how this run was started.
        wanted: whether anybody is to watch.
    """

    def __init__(
        self,
        config: pytest.Config,
        environment: Environment,
        facts: Mapping[str, Any],
        *,
        wanted: bool,
    ) -> None:
        self._wanted = wanted
        self._config = config
        self._environment = environment
        self._facts = facts
        self._reaper: Reaper | None = None

    def begin(self, remaining: float | None) -> None:
        """Watch from now on; the limit passes in `remaining` seconds, None: never."""
        if self._reaper is None and self._wanted:
            self._wanted = False  # when it cannot be started, once is enough to say so
            self._start()
        self._look()
        if self._reaper is not None:
            self._reaper.limit(remaining)

    def hear(self, event: Event) -> None:
        """Notice between two steps that the reaper has died."""
        if isinstance(event, StepFinished):
            self._look()

    def unlimited(self) -> None:
        """Wait however long it takes: somebody debugs, or cleanup has begun."""
        if self._reaper is not None:
            self._reaper.limit(None)

    def end(self) -> None:
        """Watch no more."""
        if self._reaper is not None:
            self._reaper.stop()
            self._reaper = None

    def _start(self) -> None:
        folder = self._environment.folder
        try:
            self._reaper = Reaper(
                self._environment.file,
                launch.command(self._facts, folder.parent.parent),
                {**launch.environ(self._facts, os.environ), BY_REAPER: "1"},
                folder / LOG,
            )
        except OSError as error:
            warn(
                self._config,
                f"the reaper cannot be started ({error}): if pytest is killed, the next run or "
                "`pytest --plan-cleanup` cleans up",
            )

    def _look(self) -> None:
        reaper = self._reaper
        if reaper is None or reaper.is_alive():
            return
        again = reaper.restarts == 0
        what = "it is started again" if again else "from now on nobody watches over this run"
        warn(self._config, f"the reaper (process {reaper.pid}) has died: {what}")
        if again:
            with contextlib.suppress(OSError):  # then it is found dead once more
                reaper.restart()
        else:
            self.end()
