"""Provisions the instances for clones: the workers that xdist starts in place of crashed ones.

Tests of other workers go on meanwhile. The tests of the clone wait, as those of any worker do, for
the verdicts on the steps that they need.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pytest_plan.engine.definition.graph import closure
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.plugin.compat import xdist_internals

if TYPE_CHECKING:
    from pytest_plan.plugin.declaring.declared import DeclaredSteps
    from pytest_plan.plugin.run.host import Host


class _Request(NamedTuple):
    """The steps that the tests of a clone need, and all that must be provisioned for them."""

    needs: tuple[str, ...]
    names: tuple[str, ...]


class Clones:
    """Provisions on a thread of its own; everything else happens on the main thread.

    Args:
        config: the config of the controller.
        declared: the steps of the controller.
        host: the run of the plan.
        decide: a function that decides whether tests that need these steps can run.
        tell: a function that tells the other workers which of their tests cannot run any more.
    """

    def __init__(
        self,
        config: pytest.Config,
        declared: DeclaredSteps,
        host: Host,
        decide: Callable[[Iterable[str]], None],
        tell: Callable[[], None],
    ) -> None:
        self._config = config
        self._declared = declared
        self._host = host
        self._decide = decide
        self._tell = tell
        self._due: collections.deque[_Request] = collections.deque()
        self._done: collections.deque[_Request] = collections.deque()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        host.end_other = self._end

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
        due = (tuple(filter(selection.is_due, names)) for names in (needs, wanted))
        self._due.append(_Request(*due))
        if self._thread is None:
            self._begin()

    def _begin(self) -> None:
        self._host.output.begin_behind()
        self._thread = threading.Thread(target=self._run, name="plan-clone", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self._due:
            request = self._due.popleft()
            try:
                self._host.run.provision(request.names, self._catch_up_soon)
            except JournalError:
                pass  # cleanup reports that the journal is broken
            except BaseException as error:
                self._error = error
            self._done.append(request)
        xdist_internals.call_soon(self._config, self._finish)

    def _catch_up_soon(self) -> None:
        xdist_internals.call_soon(self._config, self._catch_up)

    def _catch_up(self) -> None:
        with self._host.foreground.owned():
            self._host.run.catch_up()
        self._host.signals.raise_received()

    def _finish(self) -> None:
        """Let the tests of the clones run, and report what has failed."""
        self._end(is_over=False)
        self._host.signals.raise_received()
        self._host.report_failures(before_tests=True)

    def _end(self, is_over: bool) -> None:
        """Wait for the thread, and take over what it has provisioned."""
        if is_over and self._thread is not None:
            self._due.clear()
            self._host.run.end_provisioning("the tests have ended")
        while self._thread is not None:
            self._thread.join()
            self._thread = None
            if self._due:
                self._begin()  # for a clone that has collected just now
        self._host.output.end_behind()
        with self._host.foreground.owned():
            self._host.run.catch_up()
        if not is_over:
            self._decide_done()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _decide_done(self) -> None:
        """Let tests know whether they can run, now that the steps for clones have ended."""
        run = self._host.run
        while self._done:
            request = self._done.popleft()
            outcomes = [run.step_runs[name].outcome for name in request.names]
            self._host.has_late_failures |= any(outcome.is_failure for outcome in outcomes)
            self._decide(request.needs)
        self._tell()
        self._host.watching.begin(run)
