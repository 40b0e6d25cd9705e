"""Watches what steps need while tests run, and reports the steps that are lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.events import StepLost
from pytest_plan.engine.model.results import Loss
from pytest_plan.plugin.compat import xdist_internals
from pytest_plan.plugin.main_thread.foreground import Foreground

if TYPE_CHECKING:
    from pytest_plan.engine.execution.run import Run
    from pytest_plan.engine.shared.programs.watched import Watched
    from pytest_plan.engine.shared.programs.watcher import Watcher

_PATIENCE = 0.02  # seconds between the moment when a program's sockets are closed and its end
_LONGEST_LINE = 200  # characters of the last line of a log
_ECHO = ("$ ", " &")  # how a line begins, or ends, that shows a command


class Watching:
    """The watch over the steps of a run: a plugin, registered when there is something to watch.

    Args:
        config: the config of this process.
        foreground: the main thread.
        report: a function that hands failures on to pytest; see `Host.report_failures`.

    Attributes:
        has_losses: whether any step was lost.
        on_loss: a function to call, on the main thread, after steps were lost; None means none.
    """

    def __init__(
        self, config: pytest.Config, foreground: Foreground, report: Callable[..., None]
    ) -> None:
        self._config = config
        self._foreground = foreground
        self._report = report
        self._run: Run | None = None
        self._watcher: Watcher | None = None
        self._steps: set[str] = set()
        self._lost: dict[str, object] = {}  # `setdefault` lets one thread win
        self._has_news = False
        self._is_over = False
        self.has_losses = False
        self.on_loss: Callable[[], None] | None = None

    def begin(self, run: Run) -> None:
        """Watch the steps that have succeeded, in addition to those that are watched already."""
        from pytest_plan.engine.execution.coordination.probe import alive_check

        self._run = run
        programs, checks = run.facts.programs, run.facts.checks
        for name, step_run in run.step_runs.items():
            if not step_run.outcome.provides or name in self._steps:
                continue
            self._steps.add(name)
            if (check := alive_check(step_run, run.facts)) is not None:
                checks.add(check)
            for watched in programs.must_run(name):
                self._watch(name, watched)
        programs.tell(self._watch)
        checks.begin(self._check_failed)
        if self._watcher is not None or checks.are_needed:
            self._register()

    def look(self, *, has_failed: bool = False) -> None:
        """Notice now what has ended; any thread may call this."""
        if self._watcher is not None:
            self._watcher.look(_PATIENCE if has_failed else 0.0)

    def lose(self, step: str, program: str, status: int | None, how: str) -> None:
        """Record that a step is lost; only the first time counts. Any thread may call this.

        Args:
            step: the step.
            program: the name of the program, or of the check that has failed.
            status: the exit status of the program; None if it is not known, or for a check.
            how: what has happened, on one line.
        """
        run, token = self._run, object()
        if run is None or self._lost.setdefault(step, token) is not token:
            return
        step_run = run.step_runs[step]
        at, wall = run.facts.elapsed(), SystemClock.wall()
        step_run.lost = Loss(at, program, status, self._foreground.mask(how), wall)
        self.has_losses = True
        run.facts.emit(StepLost(step_run.result(), at))
        self._has_news = True
        xdist_internals.call_soon(self._config, self.tell)

    def tell(self, *, before_tests: bool = False) -> None:
        """Report, on the main thread, the steps that were lost since the last call.

        Args:
            before_tests: whether a test follows, which `-x` and `--maxfail` can prevent.

        Raises:
            pytest.Session.Interrupted: enough has failed, so that no test may begin.
        """
        if not self._has_news or threading.current_thread() is not threading.main_thread():
            return
        self._has_news = False
        if self._run is None or self._is_over:
            return  # cleanup reports the rest
        with self._foreground.owned():
            if self.on_loss is not None:
                self.on_loss()
            self._run.catch_up()
        self._foreground.signals.raise_received()
        self._report(before_tests=before_tests)

    def end(self) -> None:
        """Look for the last time; from now on, programs may end and no check is called."""
        run = self._run
        if run is None or self._is_over or run.facts.is_copied():
            return
        run.facts.programs.tell(None)
        run.facts.checks.end()
        if self._watcher is not None:
            self._watcher.end()
        self._is_over = True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        """Notice and report what has ended, before it is decided whether a test can run."""
        self.look()
        self.tell(before_tests=True)
        return (yield)

    def _register(self) -> None:
        """Register this plugin again, so that its hooks come before those of the gate."""
        manager, name = self._config.pluginmanager, "pytest_plan_watching"
        if manager.has_plugin(name):
            manager.unregister(self)
        manager.register(self, name)

    def _watch(self, step: str, watched: Watched) -> None:
        """Watch something that a watched step needs; it may have been started again by a test."""
        run = self._run
        if run is None or step not in self._steps or self._is_over:
            return
        if self._watcher is None:
            from pytest_plan.engine.shared.programs.watcher import Watcher

            self._watcher = Watcher(self._ended, run.clock.now, run.facts.is_copied)
        self._watcher.add(step, [watched])

    def _ended(self, step: str, watched: Watched) -> None:
        assert self._run is not None
        program, status, how = watched.how()
        if program == step.rpartition("/")[2]:
            how = how.removeprefix(f"{program!r} ")
        last = self._run.step_runs[step].log.tail(1).strip()
        if last and not (last.startswith(_ECHO[0]) or last.endswith(_ECHO[1])):
            how += f"; {last[:_LONGEST_LINE]}"
        self.lose(step, program, status, how)

    def _check_failed(self, step: str, name: str, error: str) -> None:
        self.lose(step, name, None, f"check {name!r} failed: {error}")
