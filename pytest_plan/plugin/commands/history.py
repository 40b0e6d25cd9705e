"""Implements `--plan-history`: shows how the last runs of each step went, and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.plugin.commands.columns import aligned
from pytest_plan.plugin.commands.command import Command
from pytest_plan.plugin.run.files.history import StepRecord, by_step, median, read

if TYPE_CHECKING:
    from pytest_plan.plugin.session.session import PlanSession

_COLUMNS = ("step", "runs", "failed", "retried", "median", "slowest", "last", "ended")


class ShowHistory(Command):
    """Shows the history of every step."""

    def run(self, plan_session: PlanSession) -> pytest.ExitCode:
        """Show the history."""
        say = plan_session.host.foreground.say
        runs = read(self._settings.dir)
        ended = {name: run.ended for run in runs for name in run.steps}
        rows = [_COLUMNS, *(_row(name, own, ended[name]) for name, own in by_step(runs).items())]
        for line in aligned(rows):
            say(line, always=True)
        if len(rows) == 1:
            say("there is no history yet: no run has provisioned a step", always=True)
        return pytest.ExitCode.OK


def _row(name: str, runs: Sequence[StepRecord], ended: float) -> tuple[str, ...]:
    usual = median(runs)
    seconds = [run.seconds for run in runs]
    return (
        name,
        str(len(runs)),
        str(sum(not run.has_succeeded for run in runs)),
        str(sum(run.attempts > 1 for run in runs)),
        "" if usual is None else format_duration(usual),
        format_duration(max(seconds)),
        format_duration(seconds[-1]),
        f"{format_duration(max(SystemClock.wall() - ended, 0.0))} ago",
    )
