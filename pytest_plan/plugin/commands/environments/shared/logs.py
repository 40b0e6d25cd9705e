"""Implements `--plan-logs` with `--plan-share`: prints what the owner has published of the logs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.definition.names import suggest
from pytest_plan.plugin.commands import output
from pytest_plan.plugin.commands.command import Command
from pytest_plan.plugin.commands.environments.shared.server import as_reader, living, opened, place
from pytest_plan.plugin.interface import sharing
from pytest_plan.plugin.run.environments.shared_logs import MOST, logs_in
from pytest_plan.sharing.errors import StaleError
from pytest_plan.sharing.model import Kind, View
from pytest_plan.sharing.protocol import Store

if TYPE_CHECKING:
    from pytest_plan.plugin.session.session import PlanSession

_FLAG = "--plan-logs"
_EVERY = 1.0  # seconds between two looks although no change was notified


class PrintSharedLogs(Command):
    """Prints the end of the logs of steps; with `--plan-follow`, what is added to them, too.

    Only the logs are written to standard output.
    """

    def run(self, plan_session: PlanSession) -> pytest.ExitCode:
        """Print the logs.

        Raises:
            pytest.UsageError: the server cannot be used, or a step or the environment is unknown.
        """
        self._say = plan_session.host.foreground.say
        self._marks: dict[str, int] = {}  # how many bytes of each log have been printed
        self._version = 0  # of the last row that was read
        settings = self._settings
        given = dict.fromkeys((*settings.print_logs, *settings.follow))
        with opened(settings) as store:
            view = self._view(store, list(given))
            steps = {one: name for name in given for one in _meant(name, view)}
            followed = [one for one, name in steps.items() if name in settings.follow]
            # These end `| head`, and stop following.
            with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
                self._print(store, view, list(steps))
                for step in steps:
                    if step not in self._marks and step not in followed:
                        self._say(f"{step} has no log", always=True)
                if followed:
                    self._follow(store, view, followed)
        return pytest.ExitCode.OK

    def _follow(self, store: Store, view: View, steps: Sequence[str]) -> None:
        """Print what is added to logs until the environment is cleaned up."""
        name, known = view.environment.name, view
        is_alive = view.is_owner_alive
        listener = store.listen(name)
        try:
            while (now := living(store, name)) and now.environment.id == known.environment.id:
                if is_alive and not now.is_owner_alive:
                    self._say(f"the owner {now.owner or view.owner} was lost", bad=True)
                is_alive = now.is_owner_alive
                with contextlib.suppress(StaleError):  # the next look finds out why
                    self._print(store, now, steps)
                listener.wait(_EVERY)
        finally:
            listener.close()
        self._say(f"the logs have ended: {name!r} was cleaned up", always=True)

    def _print(self, store: Store, view: View, steps: Sequence[str]) -> None:
        prefixed = len(steps) > 1 or len(self._marks) > 1
        rows = store.rows(as_reader(view), Kind.LOG, self._version)
        self._version = max((row.version for row in rows), default=self._version)
        for step, log in logs_in(rows):
            if step not in steps:
                continue
            text, missing = log.since(self._marks.get(step, 0))
            self._marks[step] = log.size
            if missing:
                size = f"{MOST // 1024} KB"
                self._say(
                    f"{missing} bytes of the log of {step} are left out: the owner publishes "
                    f"the last {size}",
                    always=True,
                )
            lines = text.splitlines() if prefixed else ()
            output.write(self._config, "".join(f"{step} | {line}\n" for line in lines) or text)

    def _view(self, store: Store, steps: list[str]) -> View:
        """Return the environment that is meant.

        Raises:
            pytest.UsageError: there is none, several could be meant, or it does not have the steps.
        """
        name = sharing.known_name(self._settings)
        names = store.names() if name is None else [name]
        views = [view for one in names if (view := living(store, one)) is not None]
        if not views:
            what = "no shared environment" if name is None else f"no shared environment {name!r}"
            raise pytest.UsageError(
                f"{_FLAG}: there is {what} {place(self._settings, store)}; known environments: "
                f"{', '.join(store.names()) or 'none'}"
            )
        having = [view for view in views if all(_meant(step, view) for step in steps)]
        if len(having) > 1:
            found = ", ".join(view.environment.name for view in having)
            raise pytest.UsageError(
                f"{_FLAG}: step {steps[0]!r} is in the shared environments {found}; choose one "
                "with --plan-environment NAME"
            )
        if not having:
            raise pytest.UsageError(_unknown(steps, views))
        return having[0]


def _meant(name: str, view: View) -> list[str]:
    """Return the steps that a name means: all instances of a step, or one."""
    return [one for one in view.project.steps if name in (one, one.partition("[")[0])]


def _unknown(steps: Sequence[str], views: Sequence[View]) -> str:
    every = [step for view in views for step in view.project.steps]
    name = next(step for step in steps if any(not _meant(step, view) for view in views))
    known = "; ".join(
        f"{', '.join(view.project.steps) or 'no steps'} (shared environment "
        f"{view.environment.name!r})"
        for view in views
    )
    return f"{_FLAG}: unknown step {name!r}{suggest(name, every)}; known steps: {known}"
