"""Runs the plan in a process that shares its environment with other runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import pytest

from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.reader import read
from pytest_plan.engine.model.errors import JournalError, StateError
from pytest_plan.engine.model.secret import Secret
from pytest_plan.plugin.items.verdict import Verdict
from pytest_plan.plugin.run import launch
from pytest_plan.plugin.run.environments.recovery import references_of
from pytest_plan.plugin.run.environments.shared_logs import LogPublisher
from pytest_plan.plugin.run.environments.sharing.joining import join, shared_steps
from pytest_plan.plugin.run.environments.sharing.link import Link
from pytest_plan.plugin.run.environments.sharing.member import MemberPart, OwnersLogs
from pytest_plan.plugin.run.environments.sharing.owner import OwnerPart
from pytest_plan.plugin.run.environments.sharing.programs import ProgramAnswers, ProgramRequests
from pytest_plan.plugin.run.environments.sharing.state import EnvironmentStore
from pytest_plan.plugin.run.environments.sharing.trust.ciphers import RowCipher
from pytest_plan.plugin.run.environments.sharing.trust.secrets import Vault
from pytest_plan.plugin.run.environments.takeover.ending import SharedEnding
from pytest_plan.sharing.errors import ShareError
from pytest_plan.sharing.model import Role

if TYPE_CHECKING:
    from pytest_plan.engine.model.events import Event, Listener
    from pytest_plan.plugin.declaring.declared import DeclaredSteps
    from pytest_plan.plugin.items.handle import PlanHandle


class SharedHost(SharedEnding):
    """Provisions the plan for all runs, as the owner, or uses what the owner provisions."""

    def __init__(
        self, declared: DeclaredSteps, handle: PlanHandle, load_listeners: Callable[[], None]
    ) -> None:
        super().__init__(declared, handle, load_listeners)
        self._requests: ProgramRequests | None = None
        self._is_apart = False  # whether this run needs no step, and so does not join

    @property
    def environment(self) -> str:
        """The name of the environment."""
        self.begin()
        return super().environment if self._link is None else self.link.name

    @property
    def share(self) -> dict[str, Any] | None:
        """The facts about the shared environment for the JSON report; None before it is joined."""
        if self._link is None:
            return None
        view = self._link.view
        return {
            "environment": view.environment.name,
            "id": view.environment.id,
            "epoch": view.environment.epoch,
            "role": "caretaker" if self._link.is_caretaker else self._link.role.value,
            "owner": self._link.owner,
            "members": list(self._link.members.values()),
            "lease_seconds": view.lease,
            "lost": self._link.trouble,
        }

    def provision(self, names: Collection[str]) -> None:
        """Run the steps as the owner; as a member, wait until the owner has.

        Raises:
            pytest.UsageError: the environment cannot be used, or the journal cannot be written.
            BaseException: see `Host.provision`.
        """
        self._is_apart = self._is_apart or (self._link is None and not self._is_wanted(names))
        if self._is_apart:
            return super().provision(names)
        self.begin()
        if self._owner is not None:
            try:
                super().provision(self._with_shared(names))
            finally:
                with self.foreground.owned():
                    if self._logs is not None:
                        self._logs.publish()
                    self._owner.decided(self.run)
                self._say_trouble()
            return None
        assert self._member is not None
        if not names:
            return None  # it has joined only to be counted
        self._declared.definition.settle()
        self.run.extend(self._declared.definition.linked())
        with self.foreground.owned():
            self._member.await_steps(self.run)
        self._say_trouble()
        self.signals.raise_received()
        steps = self.run.step_runs
        return super().provision([name for name in names if not steps[name].has_ended])

    def verdict_on(self, name: str) -> Verdict | None:
        """Return why a test that needs the step cannot run, or None if it can."""
        if self._link is not None and (trouble := self._link.trouble) is not None:
            return Verdict(skips=False, reason=self.mask(trouble), steps=(name,))
        if self._member is not None and (loss := self._member.loss(self.run, name)) is not None:
            step, why = loss
            reason = self.mask(f"plan step {step!r} of {self.link.owner} {why}")
            return Verdict(skips=False, reason=reason, steps=(step,))
        return super().verdict_on(name)

    def control(self, action: str, step: str, name: str | None) -> str:
        """Control a program that a step has started; see `PlanView.control`."""
        requests = self._requests
        if requests is None or not (self._is_shared(step) or step.startswith("@")):
            return super().control(action, step, name)
        if not step.startswith("@"):
            return requests.control(action, step, name)
        for each in list(requests.stopped):  # by a worker that has ended
            requests.control(action, each, None)
        return super().control(action, step, name)

    def has_stopped_programs(self) -> bool:
        """Return whether a test of this run has stopped programs that are not running again."""
        stopped = self._requests is not None and bool(self._requests.stopped)
        return stopped or super().has_stopped_programs()

    def _is_shared(self, step: str) -> bool:
        step_run = self.run.step_runs.get(step)
        return step_run is not None and step_run.planned.worker is None

    def _is_wanted(self, names: Collection[str]) -> bool:
        """Return whether this run joins: a test needs a step, or other runs count on it."""
        from pytest_plan.plugin.interface.sharing import runs_of

        has_steps = bool(self._declared.definition.steps) and not self._declared.settings.up
        return bool(names) or (has_steps and runs_of(self._declared.settings) > 0)

    def _with_shared(self, names: Collection[str]) -> list[str]:
        """Return the steps that the owner runs: all shared ones, or those that an option names."""
        steps, wanted = self._declared.steps, self._declared.settings.share_steps
        if self._declared.settings.up and not wanted:
            return list(names)
        shared = shared_steps(steps)
        chosen = [name for name, step in shared.items() if not wanted or step.template in wanted]
        return [name for name in steps if name in {*names, *chosen}]

    def _begin(self) -> None:
        """Join the environment, and begin the run; leave it if the run cannot begin."""
        settings = self._declared.settings
        private = settings._replace(environment=None, keep=None, reuse=False)
        if self._is_apart:
            self._declared.settings = private
            return super()._begin()
        self._link = link = join(self._declared, self.foreground)
        link.begin()
        if not (link.is_owner and link.is_local):
            # Nothing of this run's own is kept or reused.
            self._declared.settings = private
        elif settings.keep is None and not settings.reuse:
            self._declared.settings = settings._replace(environment=None)
        try:
            if link.role is Role.HEIR:
                self._inherit(link)
            super()._begin()
            self._take_part(link)
        except (ShareError, StateError) as error:  # such as a server that has just lost its data
            self._give_up(link)
            raise pytest.UsageError(str(error)) from None
        except BaseException:
            self._give_up(link)
            raise
        return None

    def _take_part(self, link: Link) -> None:
        """Begin to be the owner or a member."""
        run = self.run
        masker = run.facts.masker
        if not link.is_local and link.store.server not in str(self._declared.settings.share):
            masker.learn(Secret(self._declared.settings.share))
        store = run.facts.store
        assert isinstance(store, EnvironmentStore)
        link.on_trouble = self._stop
        key = launch.key_of(self._config)
        cipher = RowCipher(link.access.environment, key, is_local=link.is_local)
        vault = Vault(cipher, masker)
        store.connect(link, references_of(self._config), vault)
        if link.is_owner:
            self._owner = OwnerPart(link, self.foreground, masker.mask, vault, key)
            self._logs = LogPublisher(link, lambda: self.run.step_runs)
            self._logs.begin()
            self._mirror(self._owner)
            control, mask = super().control, masker.mask
            link.on_news = ProgramAnswers(link, key, control, self._is_shared, mask).on_news
            self._tell_reaper(link)
        else:
            self._requests = ProgramRequests(link, key)
            member = self._member = MemberPart(self._config, link, self.foreground, vault)
            link.on_outcome = lambda: member.look_for_losses(self._tell_workers)
            logs = OwnersLogs(self._member.logs, link.owner, self.foreground)
            self._config.pluginmanager.register(logs, "pytest_plan_owners_logs")

    def _mirror(self, owner: OwnerPart) -> None:
        journal = self.run.journal
        assert isinstance(journal, Journal)
        shared = {"name": self.link.name, "id": self.link.access.environment.id}
        with contextlib.suppress(JournalError):
            journal.set(shared={**shared, "is_local": self.link.is_local})
        facts = read(journal.file, launch.key_of(self._config)).facts
        with contextlib.suppress(JournalError):  # the first step reports it
            owner.mirror(journal, facts)

    def _tell_reaper(self, link: Link) -> None:
        """Let the reaper take over the shared environment if this process is killed."""
        from pytest_plan.plugin.run.environments.takeover import reaper

        environment, url = self._environment, self._declared.settings.share
        assert environment is not None
        assert url is not None
        environment.watch.variables = reaper.variables(link, url, environment.name)

    def _tell_workers(self) -> None:
        """Let workers know that tests are blocked from now on."""
        self.has_late_failures = True
        if self.watching.on_loss is not None:
            self.watching.on_loss()

    def _stop(self) -> None:
        """Begin no further step, and block the tests that have not begun."""
        if self._owner is not None:
            self.run.end_provisioning(str(self.link.trouble))
        self._tell_workers()

    def _listeners(self) -> list[Listener]:
        return [*super()._listeners(), self._publish]

    def _publish(self, event: Event) -> None:
        if self._owner is not None:
            self._owner.on_event(self.run, event)
