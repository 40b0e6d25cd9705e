"""Helpers for the hooks of test steps: they record calls and stop at a gate."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.model.events import Event
from pytest_plan.engine.model.results import PlanResult
from pytest_plan.engine.plan import Plan, listen
from tests.engine.support.fake_clock import FakeClock

LONGEST_WAIT = 10.0  # real seconds until a test that waits for a thread gives up


class Calls(list[str]):
    """The calls of a test's hooks, in their order; appending is thread-safe."""

    def hook(
        self, name: str, *, failures: int = 0, error: type[BaseException] = ValueError
    ) -> Callable[[], str]:
        """Return a hook that records its call; its first `failures` calls raise `name N`."""

        def call() -> str:
            self.append(name)
            number = self.count(name)
            if number <= failures:
                raise error(f"{name} {number}")
            return name

        return call

    def note(self, text: str) -> None:
        """Record a call."""
        self.append(text)


class Gate:
    """A named point at which a thread stops until the test opens it."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._reached = threading.Event()
        self._open = threading.Event()

    def hold(self) -> None:
        """Stop here; time stands still meanwhile."""
        self._reached.set()
        assert self._open.wait(LONGEST_WAIT), "nobody opened the gate"

    def hang(self) -> None:
        """Stop here and ignore every request to stop, as C code does; time goes on meanwhile."""
        self._clock.hang(self.hold)

    def wait_until_reached(self) -> None:
        """Wait until a thread stops here."""
        assert self._reached.wait(LONGEST_WAIT), "nobody came to the gate"

    def is_reached(self) -> bool:
        """Return whether a thread has come here."""
        return self._reached.is_set()

    def open(self) -> None:
        """Let the waiting thread continue, and let later threads pass."""
        self._open.set()


class Background:
    """Runs a function on a new thread, for tests that act while it runs."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._thread = threading.Thread(target=self._run, name="background")
        self.value: Any = None
        self.error: BaseException | None = None
        self._thread.start()

    @property
    def ident(self) -> int | None:
        """The id of the thread."""
        return self._thread.ident

    def result(self) -> Any:
        """Wait for the function to end; return its value or raise its exception."""
        self._thread.join(LONGEST_WAIT)
        assert not self._thread.is_alive(), "the function still runs"
        if self.error is not None:
            raise self.error
        return self.value

    def _run(self) -> None:
        try:
            self.value = self._function()
        except BaseException as error:
            self.error = error


def execute(plan: Plan) -> tuple[PlanResult, BaseException | None]:
    """Execute `plan`; return its result and the exception that it raised."""
    try:
        return plan.execute(), None
    except Exception as error:
        result = getattr(error, "result", None)
        assert isinstance(result, PlanResult)
        return result, error


def cancel_and_sleep(plan: Plan) -> Callable[[Context], None]:
    """Return a hook that cancels `plan` and then sleeps until it is stopped."""

    def hook(ctx: Context) -> None:
        plan.cancel()
        ctx.sleep(60)

    return hook


def record_events(plan: Plan) -> list[Event]:
    """Return a list to which every event of `plan` is appended."""
    events: list[Event] = []
    listen(plan, events.append)
    return events
