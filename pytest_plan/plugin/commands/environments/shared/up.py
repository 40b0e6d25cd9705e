"""Implements `--plan-up` with `--plan-share`: an owner without tests, in the foreground."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.definition.graph import closure
from pytest_plan.engine.model.outcomes import CleanupOutcome, StepOutcome
from pytest_plan.plugin.commands import output
from pytest_plan.plugin.commands.columns import aligned
from pytest_plan.plugin.commands.environments.shared.server import typed
from pytest_plan.plugin.commands.environments.shared.staying import Staying
from pytest_plan.plugin.commands.environments.up import Up
from pytest_plan.plugin.interface.options import Settings
from pytest_plan.plugin.run.environments.sharing.host import SharedHost
from pytest_plan.plugin.run.environments.sharing.rows import variable_rows, variables_in
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.solo import Solo
from pytest_plan.sharing.errors import ShareError
from pytest_plan.sharing.model import Kind

if TYPE_CHECKING:
    from pytest_plan.engine.model.results import StepResult
    from pytest_plan.plugin.items.stages import Wave
    from pytest_plan.plugin.session.session import PlanSession

_LONGEST = 200  # characters of a value that are shown
_ENCRYPTED = '{"$": "encrypted"'  # in the text of a value
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class SharedUp(Up):
    """Provisions as a run would before its first test, and provides that until it is to end.

    If another run is the owner already, it waits until that has provisioned its steps, and ends.

    Args:
        config: the config of this process.
        settings: the options.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        super().__init__(config, settings)
        self._workers = ()  # each run provisions the steps of its own workers
        self._asked: list[str] = []  # the steps that were asked for
        self._was_up = False

    def provision_eager(self, plan_session: PlanSession) -> None:
        """Provision eager steps together with the others, so that all are decided at once."""

    def put_in_order(self, plan_session: PlanSession, items: list[pytest.Item]) -> list[Wave]:
        """Provision everything at once: tests that run alone do not run here."""
        super().put_in_order(plan_session, items)
        return []

    def due(self, plan_session: PlanSession) -> Collection[str]:
        """Return what the selected tests need, without the steps of single workers."""
        declared = plan_session.declared
        wanted = {*declared.due(), *closure(declared.eager_steps(), declared.steps)}
        shared = [one for one in declared.steps.values() if one.worker is None]
        self._asked = [one.name for one in shared if one.name in wanted]
        return self._asked

    def provision_rest(self, plan_session: PlanSession) -> None:
        """Say what is up, and stay in the foreground as its owner."""
        host = plan_session.host
        assert isinstance(host, SharedHost)
        if not self._asked:
            return
        if missing := self._missing(plan_session):
            host.foreground.say(f"not up: {', '.join(missing)}", bad=True)
        if self._settings.export:
            self._export(plan_session)
        if not host.link.is_owner:
            text = f"{host.link.name!r} is up already; its owner is {host.link.owner}"
            host.foreground.say(text, always=True)
            return
        if missing and not self._settings.continue_on_error:
            return
        self._was_up = True
        self._say_what_is_up(plan_session, self._up(plan_session))
        reason = Staying(self._config, host, self._settings.until_unused).wait()
        host.foreground.say(f"{host.link.name!r} ends: {reason}", always=True)

    def raise_received(self, plan_session: PlanSession) -> None:
        """End as usual after a signal, which is a way to end an environment that is up."""
        if not self._was_up:
            super().raise_received(plan_session)

    def clean_up(self, *, failed: bool | None = None) -> None:
        """Clean up as the owner, once no other run needs the environment."""
        Solo.clean_up(self, failed=failed)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, exitstatus: int) -> None:
        """Write whether something is left."""
        plan_session = lookup.peek(self._config)
        if plan_session is None or not self.runs():
            return
        if not self._asked:
            super().pytest_terminal_summary(exitstatus)
        elif self._was_up and self._is_clean(plan_session):
            name = plan_session.host.environment
            plan_session.host.foreground.say(
                f"nothing is left of the shared environment {name!r}", always=True
            )

    def set_exit_status(self, session: pytest.Session) -> None:
        """Exit with status 0 if everything was up, and nothing is left of it.

        This includes an environment that a signal has ended.
        """
        super().set_exit_status(session)
        plan_session = lookup.peek(self._config)
        if self._was_up and plan_session is not None and self._is_good(plan_session):
            session.exitstatus = pytest.ExitCode.OK

    def _due(self, plan_session: PlanSession) -> list[str]:
        return self._asked

    def _up(self, plan_session: PlanSession) -> list[str]:
        steps = plan_session.host.run.result().steps
        return [name for name in self._asked if steps[name].outcome.provides]

    def _missing(self, plan_session: PlanSession) -> list[str]:
        steps = [plan_session.host.run.result().steps[name] for name in self._asked]
        return [
            f"{step.name} ({step.outcome.replace('_', ' ')})"
            for step in steps
            if not step.outcome.provides and step.outcome is not StepOutcome.SKIPPED
        ]

    def _say_what_is_up(self, plan_session: PlanSession, up: Sequence[str]) -> None:
        host, config, settings = plan_session.host, self._config, self._settings
        assert isinstance(host, SharedHost)
        say, name = host.foreground.say, host.link.name
        down = typed(config, settings, "--plan-down")
        if host.foreground.is_quiet:
            say(f"{name!r} is up: {', '.join(up)}; to end it: {down}, or Ctrl-C", always=True)
            return
        say(f"the shared environment {name!r} is {self._partly(plan_session)}up")
        steps = host.run.result().steps
        rows = [("step", "outcome", "value"), *(_row(steps[one], self._values(host)) for one in up)]
        for line in aligned(rows):
            say(f"  {line}")
        names = [name for name, _, obstacle in self._variables(host) if not obstacle]
        if names:
            say(f"  variables: {', '.join(names)} (--plan-export prints them)")
        say(f"to run tests on it: {typed(config, settings)}")
        say(f"to see a log:       {typed(config, settings, '--plan-logs', up[0])}")
        say(f"to end it:          {down}, or Ctrl-C")

    def _partly(self, plan_session: PlanSession) -> str:
        return "partly " if self._missing(plan_session) else ""

    def _values(self, host: SharedHost) -> dict[str, str]:
        """Return the values of steps as they are published."""
        try:
            rows = host.link.store.rows(host.link.access, Kind.STATE)
        except ShareError:
            return {}  # the wait that follows reports it
        return {row.key: row.text for row in rows}

    def _variables(self, host: SharedHost) -> list[tuple[str, str, str]]:
        """Return names and values of variables, sorted, and why a shell cannot have each, or ""."""
        found = {}
        for step, name, text in variables_in(variable_rows(host.run.facts)):
            if step in self._asked:
                found[name] = text, self._obstacle(host, name, text)
        return [(name, *found[name]) for name in sorted(found)]

    def _obstacle(self, host: SharedHost, name: str, text: str) -> str:
        if _SHELL_NAME.fullmatch(name) is None:
            return "a shell cannot have a variable with this name"
        return "it contains a secret" if host.run.facts.masker.mask(text) != text else ""

    def _export(self, plan_session: PlanSession) -> None:
        """Print the variables of the steps that are up, and end standard output.

        A shell that waits for the end of the output, but not of this process, can go on.
        """
        host = plan_session.host
        assert isinstance(host, SharedHost)
        lines = []
        for name, text, obstacle in self._variables(host):
            if obstacle:
                host.foreground.say(f"{name} is not exported: {obstacle}", bad=True)
            else:
                lines.append(f"export {name}={shlex.quote(text)}\n")
        with contextlib.suppress(BrokenPipeError):
            output.write(self._config, "".join(lines))
        output.end(self._config)

    def _is_clean(self, plan_session: PlanSession) -> bool:
        """Return whether the cleanup has left nothing."""
        host = plan_session.host
        assert isinstance(host, SharedHost)
        result = host.run.result()
        kept = [one for one in result.steps.values() if one.cleanup.outcome is CleanupOutcome.KEPT]
        is_left = bool(kept or result.left or host.run.was_left) or not host.run.is_cleaned
        return not is_left and host.run.cleanup_error() is None and host.link.trouble is None

    def _is_good(self, plan_session: PlanSession) -> bool:
        is_whole = not self._missing(plan_session) and not plan_session.host.watching.has_losses
        return is_whole and self._is_clean(plan_session)


def _row(step: StepResult, values: dict[str, str]) -> tuple[str, str, str]:
    text = values.get(step.name, "null")
    value = json.loads(text)
    shown = "" if value is None or _ENCRYPTED in text else value if isinstance(value, str) else text
    short = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
    return step.name, step.outcome.value, short
