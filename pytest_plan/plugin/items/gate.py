"""Decides before each test whether it runs, is skipped, or is blocked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator

import pytest

from pytest_plan.plugin.compat.report_internals import (
    keep_from_repeating,
    run_once,
    uncount_failure,
    with_crash,
)
from pytest_plan.plugin.items.copies import without_copies
from pytest_plan.plugin.items.verdict import Blocked, Verdict


class Gate:
    """Skips or blocks tests; registered only if there is a plan.

    Args:
        config: the config of this process.
        verdict: a function that waits until it is decided whether a test can run, and returns why
            it cannot, or None if it can.
        is_counted: a function that returns whether the step that blocks tests has been counted as a
            failure, so that `--maxfail` does not count the blocked tests as well.
        loss: a function that returns the verdict on a step which a failed test needs and which is
            lost, or None if there is none.
        needs: a function that returns the steps that a test needs, for reports that list them; None
            if no report does.

    Attributes:
        advice: a function that returns what to do if a test has failed because it uses a step that
            it does not need; None if that cannot be the reason.
    """

    def __init__(
        self,
        config: pytest.Config,
        verdict: Callable[[pytest.Item], Verdict | None],
        is_counted: Callable[[], bool],
        loss: Callable[[pytest.Item], Verdict | None],
        needs: Callable[[pytest.Item], tuple[str, ...]] | None = None,
    ) -> None:
        self._config = config
        self._verdict = verdict
        self._is_counted = is_counted
        self._loss = loss
        self._needs = needs
        self._verdicts: dict[pytest.Item, Verdict] = {}
        self.advice: Callable[[pytest.Item], str | None] = lambda item: None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Decide whether the test can run, before any of its code runs."""
        verdict = self._verdict(item)
        if verdict is not None:
            self._verdicts[item] = verdict
            with _no_debugger(item.config):
                return (yield)
        return (yield from without_copies(item))

    @pytest.hookimpl(specname="pytest_runtest_protocol", tryfirst=True)
    def pytest_runtest_protocol_once(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> object | None:
        """Keep plugins that repeat failed tests from repeating one that cannot run."""
        return run_once(item, nextitem) if item in self._verdicts else None

    @pytest.hookimpl(specname="pytest_runtest_setup", wrapper=True, tryfirst=True)
    def pytest_runtest_setup_once(self, item: pytest.Item) -> Generator[None, object, object]:
        """End a process that a fixture has forked."""
        __tracebackhide__ = True
        return (yield from without_copies(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """End a process that the test has forked."""
        __tracebackhide__ = True
        return (yield from without_copies(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """End a process that the teardown of a fixture has forked."""
        __tracebackhide__ = True
        return (yield from without_copies(item))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """End a test that cannot run, before any of its fixtures are set up."""
        if item in self._verdicts and not item.config.option.setupplan:
            self._verdicts[item].apply()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Record in the report which steps blocked the test, or were lost before it failed."""
        report = yield
        verdict = self._verdicts.get(item)
        if verdict is not None and call.when == "setup" and report.failed:
            report.plan_blocked = verdict.steps  # type: ignore[attr-defined]
        elif verdict is None and report.failed and (loss := self._loss(item)) is not None:
            report.plan_lost = loss.steps  # type: ignore[attr-defined]
            report.sections.append((f"plan step {loss.steps[0]!r} lost", f"{loss.reason}\n"))
            keep_from_repeating(item)
        elif verdict is None and report.failed and (advice := self.advice(item)) is not None:
            report.sections.append(("plan", f"{advice}\n"))
        if self._needs is not None and call.when == "setup":
            report.plan_needs = self._needs(item)  # type: ignore[attr-defined]
        return report

    @pytest.hookimpl(specname="pytest_runtest_makereport", wrapper=True, trylast=True)
    def pytest_runtest_makereport_briefly(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Show the reason instead of a traceback, before any plugin reads the report."""
        report = yield
        if call.excinfo is not None and isinstance(call.excinfo.value, Blocked):
            line = (item.location[1] or 0) + 1
            brief = call.excinfo.getrepr(style="value")
            report.longrepr = with_crash(brief, str(item.path), line, call.excinfo.exconly())
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a blocked test from the failures that `--maxfail` counts, before pytest adds it."""
        if report.failed and getattr(report, "plan_blocked", None) and self._is_counted():
            uncount_failure(self._config)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(
        self, report: pytest.TestReport
    ) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        """Count a blocked test as blocked instead of as an error."""
        if report.failed and getattr(report, "plan_blocked", None):
            return "blocked", "b", ("BLOCKED", {"yellow": True})
        return None


@contextlib.contextmanager
def _no_debugger(config: pytest.Config) -> Iterator[None]:
    """Keep `--pdb` from stopping at a test that does not run, because it has no code to inspect."""
    debugger = config.pluginmanager.unregister(name="pdbinvoke")
    try:
        yield
    finally:
        if debugger is not None:
            config.pluginmanager.register(debugger, "pdbinvoke")
