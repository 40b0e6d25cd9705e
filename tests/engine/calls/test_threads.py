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
from tests.engine.support.no_threads import needs_limit, no_threads


class Pool:
    """Threads whose news can be waited for."""

    def __init__(self, folder: Path) -> None:
        self._log = StepLog("db", RunFolders(lambda: folder), Masker())
        self._news: queue.SimpleQueue[Ending] = queue.SimpleQueue()
        self.following: list[Call] = []
        self.threads = Threads(self._completed, SystemClock())

    def call(self, function: Callable[[], Any], step: str = "db", hook: Hook = Hook.EXEC) -> Call:
        """Return a call of `function`."""
        return Call(CallScope(step, hook, 1, None), PlainBody(function), self._log, None, "")

    def news(self) -> Ending:
        """Wait for the next call that ends."""
        return self._news.get(timeout=10)

    def _completed(self, call: Call, ending: Ending) -> Call | None:
        self._news.put(ending)
        return self.following.pop(0) if self.following else None


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """Threads that are closed at the end."""
    pool = Pool(tmp_path)
    yield pool
    pool.threads.close()


def value(ending: Ending) -> Any:
    """Return what a call returned."""
    assert isinstance(ending, Returned)
    return ending.value


def test_a_call_runs_on_a_daemon_thread_named_after_its_step(pool: Pool) -> None:
    """Not on the caller's."""
    pool.threads.run(
        pool.call(lambda: (threading.current_thread(), threading.current_thread().name))
    )
    thread, name = value(pool.news())
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert name == "plan-db"


def test_whatever_a_call_raises_is_its_ending(pool: Pool) -> None:
    """Also what is no Exception: it does not end the thread."""
    for error in (ValueError(), KeyboardInterrupt(), SystemExit(3), GeneratorExit()):

        def fail(error: BaseException = error) -> None:
            raise error

        pool.threads.run(pool.call(fail))
        ending = pool.news()
        assert isinstance(ending, Raised)
        assert ending.error is error


def test_an_idle_thread_is_used_again(pool: Pool) -> None:
    """As many threads as calls at the same time."""
    threads = set()
    for _ in range(20):
        pool.threads.run(pool.call(threading.get_ident))
        threads.add(value(pool.news()))
        while not pool.threads._idle:  # it says so right after the news
            pass
    assert len(threads) == 1


def test_calls_at_the_same_time_have_threads_of_their_own(pool: Pool) -> None:
    """Each waits for the others."""
    all_there = threading.Barrier(4, timeout=10)
    for _ in range(4):
        pool.threads.run(pool.call(lambda: all_there.wait() * 0 + threading.get_ident()))
    assert len({value(pool.news()) for _ in range(4)}) == 4


def test_what_follows_a_call_runs_on_its_thread(pool: Pool) -> None:
    """A chain of steps costs no switch of threads; the name changes with the step."""
    here = lambda: (threading.get_ident(), threading.current_thread().name)  # noqa: E731
    pool.following = [pool.call(here, "web")]
    pool.threads.run(pool.call(here))
    (first, name), (second, next_name) = value(pool.news()), value(pool.news())
    assert first == second
    assert (name, next_name) == ("plan-db", "plan-web")


def test_a_call_that_must_stop_before_it_begins_does_not_begin(pool: Pool) -> None:
    """It ends with the reason."""
    call = pool.call(lambda: pytest.fail("it began"))
    call.stop(Stop(StopKind.CANCEL, "enough"))
    pool.threads.run(call)
    ending = pool.news()
    assert isinstance(ending, Raised)
    assert "enough" in str(ending.error)


def test_a_call_knows_its_thread(pool: Pool) -> None:
    """For its stack, if it gets stuck."""
    call = pool.call(threading.get_ident)
    pool.threads.run(call)
    assert value(pool.news()) == call.thread


@needs_limit
def test_a_call_fails_where_the_system_gives_no_thread(pool: Pool) -> None:
    """It says what to raise; the next may have one."""
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
    """So does the cleanup that follows it."""
    pool.following = [pool.call(threading.get_ident, hook=Hook.CLEANUP)]
    with no_threads():
        pool.threads.run(pool.call(threading.get_ident, hook=Hook.CLEANUP))
    assert [value(pool.news()) for _ in range(2)] == [threading.get_ident()] * 2


def test_threads_end_when_closed_idle_or_not(pool: Pool) -> None:
    """One that is at work ends after its call; the check on leftovers sees to it."""
    go_on = threading.Event()
    pool.threads.run(pool.call(lambda: None))
    pool.news()
    pool.threads.run(pool.call(lambda: go_on.wait(10)))
    pool.threads.close()
    go_on.set()
    assert value(pool.news()) is True
