"""Provisions steps on a thread of its own, while the thread of the listeners goes on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

from pytest_plan.engine.execution.coordination.executor import Executor
from pytest_plan.engine.execution.coordination.growing import GrowingForward
from pytest_plan.engine.execution.phases import Phase, RunStatus
from pytest_plan.engine.journal.null import NullJournal


class Background:
    """Coordinates the forward phase of a run on a thread of its own.

    One thread, that of the listeners, calls the methods. It gets the events of the steps when it
    calls `pump` or `settle`.

    Args:
        executor: the executor of the run.
        status: the status of the run.
        journal: the journal of the run.
        told: a function that is called, on another thread, when `pump` has something to do.
    """

    def __init__(
        self, executor: Executor, status: RunStatus, journal: NullJournal, told: Callable[[], None]
    ) -> None:
        self._executor = executor
        self._status = status
        self._journal = journal
        self._told = told
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._lock = threading.Lock()  # guards the attributes below
        self._wanted: list[str] = []  # steps that were added since the thread looked last
        self._is_open = False  # whether the thread will look again

    @property
    def is_running(self) -> bool:
        """Whether steps may still run, or `pump` has not noticed yet that they have ended."""
        return self._thread is not None

    def begin(self, names: Sequence[str]) -> None:
        """Provision these steps, in addition to those that are being provisioned already.

        Args:
            names: the steps, with all that they wait for and that has not ended, in the order in
                which they begin if too many are ready.
        """
        with self._lock:
            self._wanted += names
            is_open, self._is_open = self._is_open, True
        if is_open:
            self._executor.request(lambda phase: _add(phase, names))
            return
        if self._thread is not None:  # it is about to end
            self._thread.join()
        self._thread = threading.Thread(target=self._run, name="plan-steps", daemon=True)
        self._thread.start()

    def pump(self) -> None:
        """Deliver the events so far to the listeners.

        Raises:
            BaseException: the thread has ended because of it.
        """
        thread = self._thread
        if thread is not None and not self._is_open:
            thread.join()
            self._thread = None
        self._executor.catch_up()
        if self._thread is None and self._error is not None:
            error, self._error = self._error, None
            raise error

    def settle(self) -> None:
        """Wait until no step runs, and deliver the events meanwhile.

        Raises:
            BaseException: the thread has ended because of it.
        """
        self.pump()
        while self.is_running:
            self._news.get()
            self.pump()

    def _run(self) -> None:
        try:
            while due := self._take():
                self._executor.run(GrowingForward(self._status, due), self._tell)
                if self._journal.failure is None:  # a broken journal makes a step fail
                    self._journal.flush()
        except BaseException as error:
            self._error = error
            with self._lock:
                self._is_open = False
        self._tell()

    def _take(self) -> list[str]:
        """Return the steps that are left to provision; if there are none, the thread ends."""
        with self._lock:
            wanted, self._wanted = self._wanted, []
            due = [name for name in wanted if not self._status.step_runs[name].has_ended]
            self._is_open = bool(due)
            return due

    def _tell(self) -> None:
        self._news.put(None)
        self._told()


def _add(phase: Phase, names: Sequence[str]) -> None:
    if isinstance(phase, GrowingForward):  # otherwise the next phase has them
        phase.add(names)
