"""The daemon threads that perform calls."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.calls.body import PlainBody
from pytest_plan.engine.calls.call import Call, CallScope, Ending, Raised, Refused, Returned
from pytest_plan.engine.calls.threads import Threads
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.outcomes import Hook
from pytest_plan.engine.model.secret import Masker
from pytest_plan.engine.model.stop import Stop, StopKind
from pytest_plan.engine.shared.folders import RunFolders
from pytest_plan.engine.shared.log import StepLog
from pytest_plan.engine.shared.program_log import Copies
from tests.engine.support.no_threads import needs_limit, no_threads


class Pool:
    """Threads, with a queue of the endings of their calls."""

    def __init__(self, folder: Path) -> None:
        self._log = StepLog("db", RunFolders(lambda: folder), Masker(), Copies())
        self._news: queue.SimpleQueue[Ending] = queue.SimpleQueue()
        self.following: list[Call] = []
        self.threads = Threads(self._completed, SystemClock())

    def call(self, function: Callable[[], Any], step: str = "db", hook: Hook = Hook.EXEC) -> Call:
        """Return a call of `function`."""
        return Call(CallScope(step, hook, 1, None), PlainBody(function), self._log, None, "")

    def news(self) -> Ending:
        """Wait for the next call to end, and return its ending."""
        return self._news.get(timeout=10)

    def _completed(self, call: Call, ending: Ending) -> Call | None:
        self._news.put(ending)
        return self.following.pop(0) if self.following else None


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """A pool of threads, closed when the test ends."""
    pool = Pool(tmp_path)
    yield pool
    pool.threads.close()


def value(ending: Ending) -> Any:
    """Return the value of a call that returned."""
    assert isinstance(ending, Returned)
    return ending.value


def test_a_call_runs_on_a_daemon_thread_named_after_its_step(pool: Pool) -> None:
    """It does not run on the calling thread."""
    pool.threads.run(
        pool.call(lambda: (threading.current_thread(), threading.current_thread().name))
    )
    thread, name = value(pool.news())
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert name == "plan-db"


def test_whatever_a_call_raises_is_its_ending(pool: Pool) -> None:
    """Not even a BaseException ends the thread."""
    for error in (ValueError(), KeyboardInterrupt(), SystemExit(3), GeneratorExit()):

        def fail(error: BaseException = error) -> None:
            raise error

        pool.threads.run(pool.call(fail))
        ending = pool.news()
        assert isinstance(ending, Raised)
        assert ending.error is error


def test_an_idle_thread_is_used_again(pool: Pool) -> None:
    """There are only as many threads as concurrent calls."""
    threads = set()
    for _ in range(20):
        pool.threads.run(pool.call(threading.get_ident))
        threads.add(value(pool.news()))
        while not pool.threads._idle:  # it says so right after the news
            pass
    assert len(threads) == 1


def test_calls_at_the_same_time_have_threads_of_their_own(pool: Pool) -> None:
    """Concurrent calls do not wait for each other."""
    all_there = threading.Barrier(4, timeout=10)
    for _ in range(4):
        pool.threads.run(pool.call(lambda: all_there.wait() * 0 + threading.get_ident()))
    assert len({value(pool.news()) for _ in range(4)}) == 4


def test_what_follows_a_call_runs_on_its_thread(pool: Pool) -> None:
    """A chain of calls stays on one thread, which is renamed for each step."""
    here = lambda: (threading.get_ident(), threading.current_thread().name)  # noqa: E731
    pool.following = [pool.call(here, "web")]
    pool.threads.run(pool.call(here))
    (first, name), (second, next_name) = value(pool.news()), value(pool.news())
    assert first == second
    assert (name, next_name) == ("plan-db", "plan-web")


def test_a_call_that_must_stop_before_it_begins_does_not_begin(pool: Pool) -> None:
    """Its ending has the reason."""
    call = pool.call(lambda: pytest.fail("it began"))
    call.stop(Stop(StopKind.CANCEL, "enough"))
    pool.threads.run(call)
    ending = pool.news()
    assert isinstance(ending, Raised)
    assert "enough" in str(ending.error)


def test_a_call_knows_its_thread(pool: Pool) -> None:
    """The thread's stack is needed if the call gets stuck."""
    call = pool.call(threading.get_ident)
    pool.threads.run(call)
    assert value(pool.news()) == call.thread


@needs_limit
def test_a_call_fails_where_the_system_gives_no_thread(pool: Pool) -> None:
    """The error says which limit to raise; a later call may get a thread."""
    call = pool.call(lambda: pytest.fail("it ran"))
    with no_threads():
        pool.threads.run(call)
    ending = pool.news()
    assert isinstance(ending, Refused)
    assert "ulimit -u" in str(ending.error)
    assert not call.has_run
    pool.threads.run(pool.call(lambda: 1))
    assert value(pool.news()) == 1


@needs_limit
def test_a_cleanup_runs_here_where_the_system_gives_no_thread(pool: Pool) -> None:
    """A cleanup, and the cleanup after it, run on the calling thread."""
    pool.following = [pool.call(threading.get_ident, hook=Hook.CLEANUP)]
    with no_threads():
        pool.threads.run(pool.call(threading.get_ident, hook=Hook.CLEANUP))
    assert [value(pool.news()) for _ in range(2)] == [threading.get_ident()] * 2


def test_threads_end_when_closed_idle_or_not(pool: Pool) -> None:
    """A busy thread ends after its call; the check for leftovers verifies it."""
    go_on = threading.Event()
    pool.threads.run(pool.call(lambda: None))
    pool.news()
    pool.threads.run(pool.call(lambda: go_on.wait(10)))
    pool.threads.close()
    go_on.set()
    assert value(pool.news()) is True
