"""The controller's plan and State as seen by the tests of a worker."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_plan.engine.definition.names import worker_of
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.model.secret import secret_texts
from pytest_plan.engine.shared.state import State
from pytest_plan.engine.shared.store import Entry
from pytest_plan.plugin.items.verdict import Verdict
from pytest_plan.plugin.xdist.client import Client, Progress
from pytest_plan.plugin.xdist.remote_logs import RemoteLogs
from pytest_plan.plugin.xdist.wire import dump, load, open_value

if TYPE_CHECKING:
    from pytest_plan.engine.model.results import Loss, StepResult

__tracebackhide__ = True  # as in engine/shared/state.py
_MOST_NAMED = 3  # steps that the report of a test names
_PATIENCE = 5.0  # seconds to wait for the controller after a test has failed


class Remote:
    """The plan view of a worker, which asks the controller.

    Args:
        client: the connection to the controller.
        begun: a function to call once the plan has begun. Its argument is a function that returns
            the seconds left until the limit, or None if there is no limit.
        workers: the number of workers of the run.
        is_alone: a function that returns whether the test that runs is the only one in all workers.

    Attributes:
        logs: the logs of the steps.
    """

    def __init__(
        self,
        client: Client,
        begun: Callable[[Callable[[], float | None]], None],
        workers: int = 1,
        is_alone: Callable[[], bool] = lambda: False,
    ) -> None:
        self._client = client
        self._is_alone = is_alone
        self._workers = workers
        self._begun = begun
        self._has_begun = False
        self._deadline: float | None = None
        self._store = RemoteStore(client)
        self._state = State(self._store)
        self._verdicts: dict[str, Verdict | None] = {}
        self._news: bytes | None = None  # what `_lost` and `_losses` have been read from
        self._lost: Mapping[str, Verdict] = {}
        self._losses: Mapping[str, Loss] = {}
        self._progress: Progress | None = None  # when the test that runs began
        self._seen: set[str] = set()  # the steps whose variables this worker sees
        self._run_id: str | None = None
        self._environment: str | None = None
        self._test_variables: dict[str, Mapping[str, str]] = {}  # by step
        self._log_sources: dict[str, str | None] = {}
        self.logs = RemoteLogs(client, self._log_sources)

    @property
    def state(self) -> State:
        """The State, which the controller holds."""
        return self._state

    @property
    def run_id(self) -> str:
        """The id of the run."""
        if self._run_id is None:
            self._run_id = str(self._client.ask("run_id"))
        return self._run_id

    @property
    def environment(self) -> str:
        """The name of the environment; if it has no name, `run-` followed by the run id."""
        if self._environment is None:
            self._environment = str(self._client.ask("environment"))
        return self._environment

    def ensure(self, names: Iterable[str]) -> None:
        """Wait until these steps are decided, and set the environment variables of the plan."""
        unknown = [name for name in names if name not in self._verdicts]
        if not unknown and self._has_begun:
            return
        answer = load(self._client.ask("ensure", unknown))
        verdicts, variables, of_tests, remaining, values, *about, sources, seen = answer
        self._seen.update(seen)
        self._run_id, self._environment = about
        self._test_variables.update(of_tests)
        self._log_sources.update(sources)
        os.environ.update(variables)
        self._store.values.update(values)
        self._verdicts.update(verdicts)
        if not self._has_begun:
            self._has_begun = True
            self._deadline = None if remaining is None else SystemClock.now() + remaining
            self._begun(self.remaining)

    def begin_test(self, names: Iterable[str]) -> None:
        """Fix what the steps have come to, for a test that begins and needs these steps.

        Forked copies of this process can read the values of these steps and nothing else.
        """
        self._store.kept = frozenset(names)
        self._progress = self._client.progress

    def advice(self) -> str | None:
        """Return what to do if the running test, which needs no step, has failed without one.

        Return None if all steps had ended when it began, and it sees everything that they have set.
        """
        if self._progress is None:
            return None
        _, unfinished, setting = self._progress
        hidden = [step for step in setting if step not in self._seen]
        steps = unfinished or hidden
        if not steps:
            return None
        shown = [repr(step) for step in steps[:_MOST_NAMED]]
        more = f" and {len(steps) - len(shown)} more" if len(steps) > len(shown) else ""
        names = f"{', '.join(shown)}{more}"
        began = f"began before {names} {'was' if len(steps) == 1 else 'were'} up"
        text = began if unfinished else f"does not see the environment variables of {names}"
        uses = "it" if len(steps) == 1 else "one of them"
        mark = f'@pytest.mark.plan("{steps[0]}")'
        return f"this test needs no step and {text}; if it uses {uses}, mark it with {mark}"

    def verdict_on(self, name: str) -> Verdict | None:
        """Return why a test that needs the step cannot run, or None if it can."""
        self._read_losses(self._client.losses)
        if name in self._lost:
            return self._lost[name]
        if name not in self._verdicts:
            verdict: Verdict | None = load(self._client.ask("verdict", name))
            return verdict
        return self._verdicts[name]

    def test_variables(self, names: Iterable[str]) -> Mapping[str, str]:
        """Return the environment variables that only tests that need one of these steps see."""
        known = self._test_variables
        return {name: value for step in names for name, value in known.get(step, {}).items()}

    def look(self, *, has_failed: bool = False) -> None:
        """Ask the controller for lost steps after a failure; otherwise it tells without asking."""
        if has_failed:
            with contextlib.suppress(StateError, TimeoutError):
                self._read_losses(self._client.ask("losses", timeout=_PATIENCE))

    def results(self) -> Mapping[str, StepResult]:
        """Return the results of the steps so far."""
        if self._progress is None:
            results: Mapping[str, StepResult] = load(self._client.ask("results"))
        else:
            parts = load(self._client.ask("results_at", self._progress[0]))
            results = {name: load(result) for name, result in parts.items()}
        self._read_losses(self._client.losses)
        return {
            name: result._replace(lost=self._losses.get(name)) for name, result in results.items()
        }

    def _read_losses(self, news: bytes | None) -> None:
        if news is not None and news is not self._news:
            self._news = news
            lost, losses = load(news)
            # The answer to a question and a message without one may arrive in any order.
            self._lost, self._losses = {**self._lost, **lost}, {**self._losses, **losses}

    def remaining(self) -> float | None:
        """Return the seconds left until the limit is reached, or None if there is no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - SystemClock.now())

    def control(self, action: str, step: str, name: str | None) -> str:
        """Control a program that a step has started; see `PlanView.control`."""
        if self._workers > 1 and worker_of(step) is None and not self._is_alone():
            raise RuntimeError(
                f"a test cannot stop or start programs of step {step!r}, because tests of "
                f"{self._workers} workers use them at the same time; "
                "mark the test with @pytest.mark.plan_alone, or run it without -n"
            )
        done, answer = load(self._client.ask("control", action, step, name))
        if not done:
            raise answer
        return str(answer)


class RemoteStore:
    """The store of a worker's State: each operation is a request to the controller.

    Attributes:
        values: for forked copies of this process, the versions and pickles of the values of steps,
            None for a step without a value, or why a value cannot be read.
        kept: the steps whose values such a copy may read.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.values: dict[str, tuple[int, bytes] | str | None] = {}
        self.kept: frozenset[str] = frozenset()

    def read(self, key: str) -> Entry | None:
        """Return the entry of `key`, or None if there is none."""
        if key in self.kept and key in self.values and self._client.is_copied():
            return _entry(key, _readable(self.values[key]))
        return _entry(key, self._client.ask("read", key))

    def write(self, key: str, value: Any, version: int | None, writer: str | None) -> bool:
        """Write the value if the entry is still at `version`; see `Store.write`."""
        data, secrets = dump(key, value), secret_texts(value)
        return bool(self._client.ask("write", key, data, version, secrets))

    def remove(self, key: str, version: int, writer: str | None) -> bool:
        """Remove the entry if it is still at `version`."""
        return bool(self._client.ask("remove", key, version))

    def versions(self) -> dict[str, int]:
        """Return a consistent copy of the version of every key."""
        versions: dict[str, int] = self._client.ask("versions")
        return versions

    def snapshot(self) -> dict[str, Any]:
        """Return a consistent copy of all values."""
        return {key: open_value(key, data) for key, data in self._client.ask("snapshot").items()}

    def wait(self, key: str, timeout: float | None, stopping: Callable[[], bool]) -> Entry | None:
        """Return the entry of `key` as soon as there is one, or None after `timeout` seconds."""
        if timeout is not None and (found := self._client.ask("read", key)) is not None:
            return _entry(key, found)  # an answer takes longer than a short timeout
        try:
            return _entry(key, self._client.ask("wait", key, timeout=timeout))
        except TimeoutError:
            return None

    def acquire(self, name: str, timeout: float | None, stopping: Callable[[], bool]) -> bool:
        """Take the lock `name`; return False if it is not free within `timeout` seconds."""
        thread = threading.get_ident()
        if timeout is not None and self._client.ask("try_acquire", name, thread):
            return True
        try:
            return bool(self._client.ask("acquire", name, thread, timeout=timeout))
        except TimeoutError:
            return False

    def release(self, name: str, thread: int) -> None:
        """Release the lock `name` if the given thread of this worker still holds it."""
        if not self._client.is_copied():  # otherwise the original process holds the lock
            self._client.ask("release", name, thread)


def _readable(value: tuple[int, bytes] | str | None) -> tuple[int, bytes] | None:
    if isinstance(value, str):
        raise StateError(value)
    return value


def _entry(key: str, answer: tuple[int, bytes] | None) -> Entry | None:
    return None if answer is None else Entry(answer[0], open_value(key, answer[1]))
