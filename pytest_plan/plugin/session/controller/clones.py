"""Provisions the instances for clones: the workers that xdist starts in place of crashed ones.

Tests of other workers go on meanwhile. The tests of the clone wait, as those of any worker do, for
the verdicts on the steps that they need.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from pytest_plan.engine.definition.graph import closure

if TYPE_CHECKING:
    from pytest_plan.plugin.declaring.declared import DeclaredSteps
    from pytest_plan.plugin.run.host import Host
    from pytest_plan.plugin.session.controller.behind import Behind


class _Request(NamedTuple):
    """The steps that the tests of a clone need, and all that must be provisioned for them."""

    needs: tuple[str, ...]
    names: tuple[str, ...]


class Clones:
    """Provisions behind the tests of the other workers.

    Args:
        declared: the steps of the controller.
        host: the run of the plan.
        behind: what provisions behind the tests.
        decide: a function that decides whether tests that need these steps can run.
        tell: a function that tells the other workers which of their tests cannot run any more.
    """

    def __init__(
        self,
        declared: DeclaredSteps,
        host: Host,
        behind: Behind,
        decide: Callable[[Iterable[str]], None],
        tell: Callable[[], None],
    ) -> None:
        self._declared = declared
        self._host = host
        self._behind = behind
        self._decide = decide
        self._tell = tell
        self._due: collections.deque[_Request] = collections.deque()

    def concern(self, worker: str) -> bool:
        """Return whether a worker is a clone for which nothing was provisioned yet."""
        return worker not in self._declared.definition.workers

    def provision(self, worker: str, needs: Iterable[str]) -> None:
        """Begin to provision what the tests of a clone need."""
        definition = self._declared.definition
        definition.workers = (*definition.workers, worker)
        steps = definition.linked()
        self._host.run.extend(steps)
        selection = self._declared.selection
        selection.rank_steps(steps)
        wanted = self._declared.to_run([name for name in needs if name in steps], steps)
        self._declared.needed = tuple(closure({*(self._declared.needed or ()), *wanted}, steps))
        # The steps of later stages are provisioned with those of the other workers.
        request = _Request(*(tuple(filter(selection.is_due, names)) for names in (needs, wanted)))
        self._due.append(request)
        self._behind.begin(request.names)

    def use_provisioned(self) -> None:
        """Let tests of clones know whether they can run, once the steps for them have ended."""
        run = self._host.run
        ended = [
            request
            for request in self._due
            if all(run.step_runs[name].has_ended for name in request.names)
        ]
        for request in ended:
            self._due.remove(request)
            outcomes = [run.step_runs[name].outcome for name in request.names]
            self._host.has_late_failures |= any(outcome.is_failure for outcome in outcomes)
            self._decide(request.needs)
        if ended:
            self._tell()
            self._host.watching.begin(run)
