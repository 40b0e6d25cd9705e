"""Lets tests begin while steps that they do not need are still being provisioned."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.plugin.xdist.server import History

if TYPE_CHECKING:
    from pytest_plan.plugin.session.controller.behind import Behind
    from pytest_plan.plugin.session.session import PlanSession
    from pytest_plan.plugin.xdist.scheduling.scheduling import WaveScheduling
    from pytest_plan.plugin.xdist.server import Answers


class Overlap:
    """Provisions behind the tests, and says which tests can be given out: a plugin.

    Args:
        plan_session: the plan of the controller.
        answers: what workers are told.
        behind: what provisions behind the tests.
        scheduling: what gives tests to workers.
        tell: a function that tells the workers what the steps have come to.

    Attributes:
        known: the environment variables that all workers see: those of steps that had ended.
    """

    def __init__(
        self,
        plan_session: PlanSession,
        answers: Answers,
        behind: Behind,
        scheduling: WaveScheduling,
        tell: Callable[[], None],
    ) -> None:
        self._declared = plan_session.declared
        self._host = plan_session.host
        self._answers = answers
        self._behind = behind
        self._scheduling = scheduling
        self._tell = tell
        self._asked: set[str] = set()  # the steps that tests need and that are not decided yet
        self._all: dict[tuple[str, ...], tuple[str, ...]] = {}  # with the instances of all workers
        self._running: dict[str, int] = {}  # tests that run, by node id
        self._since: float | None = None  # when the first of them began
        self._has_ended = False  # whether all steps had ended when they were looked at last
        self._plan = plan_session
        plan_session.early_tests = 0
        self.known = frozenset(self._host.variables())
        answers.progress = History()
        behind.waits = False
        scheduling.is_ready = self.is_ready
        scheduling.has_ended = lambda: self._has_ended
        scheduling.entered = self._say_counts

    def begin(self, names: Collection[str], asked: Iterable[str]) -> None:
        """Begin to provision steps, in addition to those that are being provisioned.

        Args:
            names: the steps.
            asked: all steps that tests need so far.

        Raises:
            pytest.UsageError: the environment is in use, or the journal cannot be written.
            KeyboardInterrupt: a signal was received meanwhile.
        """
        self._host.open_to(names)
        try:
            with self._host.foreground.owned():
                self._host.note_conftests()
        except JournalError as error:
            raise pytest.UsageError(self._host.mask(str(error))) from None
        self._has_ended = False
        self._asked.update(asked)
        self._behind.begin(names)
        self.use_provisioned()

    def use_provisioned(self) -> None:
        """Let tests use the steps that have ended, on the main thread."""
        selection = self._declared.selection
        ended = {
            name
            for name in self._asked
            if selection.is_due(name)
            and (name not in (self._declared.needed or ()) or self._have_ended((name,)))
        }
        self._asked -= ended
        is_running = self._behind.is_running
        self._has_ended = not (self._note_progress() and is_running)
        self._answers.decide(ended)
        self._tell()
        if self._has_ended:
            self._note_time()
        if not is_running:
            self._host.use_provisioned()
        elif ended:
            self._host.watching.begin(self._host.run)
        self._scheduling.look()

    def _note_progress(self) -> list[str]:
        """Note which steps have set variables, as tests know them; return those not ended."""
        facts, runs = self._host.run.facts, self._host.run.step_runs
        history = self._answers.progress
        assert history is not None
        unfinished = [name for name in self._declared.due() if not runs[name].has_ended]
        owners = facts.variables.owners()
        setting = [step for name, step in owners.items() if name not in self.known]
        setting += [step for step, _, _ in facts.instance_variables.current()]
        history.unfinished, history.setting = (
            list(dict.fromkeys(runs[name].planned.template for name in names if name in runs))
            for names in (unfinished, setting)
        )
        return unfinished

    def stop(self, reason: str) -> None:
        """Stop the steps that run, because the session ends."""
        self._note_time()
        if not self._behind.is_running:
            return
        if self._host.signals.received:
            self._host.run.cancel("a signal ended the session")
        else:
            self._host.run.end_provisioning(f"the session ends: {reason}", at_once=True)

    def is_ready(self, needs: Sequence[str]) -> bool:
        """Return whether the steps of a test have ended, so that it can be given out."""
        return self._have_ended(tuple(needs))

    def _have_ended(self, names: tuple[str, ...]) -> bool:
        runs = self._host.run.step_runs
        if names not in self._all:
            self._all[names] = self._declared.everywhere(names, self._declared.steps)
        return all(runs[name].has_ended for name in self._all[names] if name in runs) or (
            not self._behind.is_running
        )

    def _say_counts(self, ready: int, tests: int) -> None:
        if 0 < ready < tests:
            rest = tests - ready
            waiting = "1 waits for its steps" if rest == 1 else f"{rest} wait for their steps"
            self._host.foreground.say(f"{ready} of {tests} tests begin now; {waiting}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Count a test that begins before all steps have ended."""
        if self._has_ended:
            return
        self._plan.early_tests = (self._plan.early_tests or 0) + 1
        self._running[nodeid] = self._running.get(nodeid, 0) + 1
        if self._since is None:
            self._since = SystemClock.now()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Note that a test has ended that began before all steps had ended."""
        if nodeid in self._running:
            self._running[nodeid] -= 1
            if not self._running[nodeid]:
                del self._running[nodeid]
        if not self._running:
            self._note_time()

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str) -> None:
        """Note that a test has ended with its worker."""
        self.pytest_runtest_logfinish(crashitem)

    def _note_time(self) -> None:
        if self._since is not None:
            self._plan.early_seconds += SystemClock.now() - self._since
            self._since = None


def reason_of(session: pytest.Session, error: BaseException | None) -> str:
    """Return why a session ends early, in a few words."""
    dsession: Any = session.config.pluginmanager.get_plugin("dsession")
    why = getattr(dsession, "shouldstop", None) or session.shouldfail or session.shouldstop
    if why or error is None:
        return str(why or "no test needs them any more")
    return str(error) or type(error).__name__
