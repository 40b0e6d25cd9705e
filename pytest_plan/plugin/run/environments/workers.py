"""Which worker of an earlier run a worker of this run continues, so that its instances are reused.

The names of instances stay as they are: their cleanup uses `ctx.worker`.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.definition.instances import SOLO
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.plugin.interface.options import Settings
from pytest_plan.plugin.run import launch

if TYPE_CHECKING:
    from pytest_plan.engine.journal.seal import Key

_FIRST = "gw0"


class Continued:
    """The workers whose instances the environment of this run has kept.

    Args:
        config: the config of this process.
        settings: the options.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        name = settings.environment_name
        has_name = settings.reuse and name is not None
        # The instances of other runs are in the same environment.
        self._prefix = "" if settings.share is None else f"{secrets.token_hex(3)}-"
        self._kept = _kept(settings.dir, name, launch.key_of(config)) if has_name and name else ()

    def by(self, worker: str) -> str:
        """Return the worker that a worker of this run continues; usually itself.

        In an environment that several runs share, the worker gets a name that no other run has.

        The first worker continues a run without workers, and such a run the first worker.
        """
        if self._prefix:
            return f"{self._prefix}{worker}"
        if worker in self._kept or worker not in (_FIRST, SOLO):
            return worker
        other = SOLO if worker == _FIRST else _FIRST
        return other if other in self._kept else worker


def _kept(parent: Path, name: str, key: Key) -> Collection[str]:
    from pytest_plan.engine.environments.environment import FOLDER, JOURNAL

    file = parent / FOLDER / name / JOURNAL
    if not file.exists():
        return ()
    from pytest_plan.engine.journal.reader import read

    try:
        recorded = read(file, key)
    except JournalError:
        return ()  # the run reports it when it claims the environment
    return {worker for step in recorded.steps.values() if (worker := step.worker) is not None}
