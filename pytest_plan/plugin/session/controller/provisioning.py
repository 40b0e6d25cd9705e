"""Provisions for the workers: before their tests, or while these run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_plan.plugin.session.controller.behind import Behind
    from pytest_plan.plugin.session.controller.clones import Clones
    from pytest_plan.plugin.session.controller.overlap import Overlap
    from pytest_plan.plugin.session.session import PlanSession
    from pytest_plan.plugin.xdist.scheduling.scheduling import WaveScheduling
    from pytest_plan.plugin.xdist.server import Answers, Server


class Provisioning:
    """Provisions before the tests, or behind them: for clones, and with `plan_overlap`.

    Args:
        plan_session: the plan of the controller.
        answers: what workers are told.
        scheduling: what gives tests to workers; None if the user's scheduler does.
        servers: the controller's end of the channel to each worker, by node.

    Attributes:
        needs: the steps that the tests of all workers need.
    """

    def __init__(
        self,
        plan_session: PlanSession,
        answers: Answers,
        scheduling: WaveScheduling | None,
        servers: Mapping[Any, Server],
    ) -> None:
        self._plan = plan_session
        self._answers = answers
        self._scheduling = scheduling
        self._servers = servers
        self._behind: Behind | None = None  # None until steps are provisioned while tests run
        self._clones: Clones | None = None  # None before the first of them
        self._overlap: Overlap | None = None  # None if tests begin after all steps
        self._has_instances = False  # whether instances were provisioned
        self._has_warned = False
        self.needs: set[str] = set()
        plan_session.host.watching.on_loss = self.tell_losses

    def find_workers(self, living: Collection[str]) -> None:
        """Let steps have instances for the workers that are there when the first has collected."""
        self._plan.find_workers()
        definition = self._plan.declared.definition
        if definition.has_instances and not self._has_instances:
            self._has_instances = True
            definition.workers = tuple(dict.fromkeys(living))

    def provision(self, names: Collection[str]) -> None:
        """Provision steps, behind the tests if the user wants that and there is a step to run."""
        scheduling = self._scheduling
        overlaps = names and self._plan.settings.overlap and self._may_overlap()
        if not overlaps or scheduling is None:
            self._plan.host.provision(names)
            return
        if self._overlap is None:
            from pytest_plan.plugin.session.controller.overlap import Overlap

            behind = self._start_behind()
            self._overlap = Overlap(
                self._plan, self._answers, behind, scheduling, self._tell_progress
            )
            self._plan.config.pluginmanager.register(self._overlap, "pytest_plan_overlap")
        self._overlap.begin(names, self.needs)

    def decide(self) -> None:
        """Decide whether the tests of the open stage can run; with overlap, each step decides."""
        if self._plan.host.has_begun and self._overlap is None:
            self._answers.decide(filter(self._plan.declared.selection.is_due, self.needs))

    def provision_for_clone(self, worker: str, needs: Collection[str]) -> bool:
        """Provision behind the tests for a worker that replaces another one; False for others."""
        if not self._has_instances:
            return False
        if self._clones is None:
            from pytest_plan.plugin.session.controller.clones import Clones

            plan, behind = self._plan, self._start_behind()
            decide = self._answers.decide
            self._clones = Clones(plan.declared, plan.host, behind, decide, self.tell_losses)
        if not self._clones.concern(worker):
            return False
        self.needs.update(needs)
        self._clones.provision(worker, needs)
        return True

    def finish(self) -> None:
        """After all tests, provision the rest, which no test needs."""
        if self._behind is not None:
            self._behind.settle()
        self._plan.provision_rest()

    def hidden(self, variables: Iterable[str]) -> set[str]:
        """Return those of the variables of steps that a further worker must not see yet."""
        known = None if self._overlap is None else self._overlap.known
        return set() if known is None else {name for name in variables if name not in known}

    def stop(self, session: pytest.Session) -> None:
        """Stop the steps that run behind the tests, because the session ends."""
        if self._overlap is not None:
            from pytest_plan.plugin.session.controller.overlap import reason_of

            self._overlap.stop(reason_of(session, self._plan.ended_by))

    def tell_losses(self) -> None:
        """Let every worker know at once which steps are lost."""
        losses = self._answers.losses()
        for server in list(self._servers.values()):
            server.lost(losses)

    def _tell_progress(self) -> None:
        """Let every worker know what the steps have come to."""
        for server in list(self._servers.values()):
            server.progress(self._answers.progress)

    def _may_overlap(self) -> bool:
        settings = self._plan.settings
        if settings.share is None:
            return True
        if not self._has_warned:
            self._has_warned = True
            text = f"{settings.sources['overlap']} does nothing with --plan-share"
            self._plan.host.foreground.say(f"{text}: tests begin after the last step")
        return False

    def _start_behind(self) -> Behind:
        if self._behind is None:
            from pytest_plan.plugin.session.controller.behind import Behind

            self._behind = Behind(self._plan.config, self._plan.host, self._use_provisioned)
        return self._behind

    def _use_provisioned(self) -> None:
        """Let tests use what was provisioned while other tests ran."""
        if self._clones is not None:
            self._clones.use_provisioned()
        if self._overlap is not None:
            self._overlap.use_provisioned()
