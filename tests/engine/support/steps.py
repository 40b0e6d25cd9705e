"""What the fakes of the engine tests are made of: they note their calls and stop on request."""

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
    """The calls of a test's hooks, in their order; appending is safe from every thread."""

    def hook(
        self, name: str, *, failures: int = 0, error: type[BaseException] = ValueError
    ) -> Callable[[], str]:
        """Return a hook that notes its call, and fails with `name N` the first N times."""

        def call() -> str:
            self.append(name)
            number = self.count(name)
            if number <= failures:
                raise error(f"{name} {number}")
            return name

        return call

    def note(self, text: str) -> None:
        """Note a call."""
        self.append(text)


class Gate:
    """One named point at which a thread stops until the test lets it go on."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._reached = threading.Event()
        self._open = threading.Event()

    def hold(self) -> None:
        """Stop here; time stands still meanwhile."""
        self._reached.set()
        assert self._open.wait(LONGEST_WAIT), "nobody opened the gate"

    def hang(self) -> None:
        """Stop here, deaf to every request, as C code does; time goes on meanwhile."""
        self._clock.hang(self.hold)

    def wait_until_reached(self) -> None:
        """Wait until a thread stops here."""
        assert self._reached.wait(LONGEST_WAIT), "nobody came to the gate"

    def is_reached(self) -> bool:
        """Whether a thread has come here."""
        return self._reached.is_set()

    def open(self) -> None:
        """Let through whoever stops here, and whoever comes later."""
        self._open.set()


class Background:
    """A function on a thread of its own, for tests that act while it runs."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._thread = threading.Thread(target=self._run, name="background")
        self.value: Any = None
        self.error: BaseException | None = None
        self._thread.start()

    @property
    def ident(self) -> int | None:
        """The thread."""
        return self._thread.ident

    def result(self) -> Any:
        """Wait for the end; return or raise as the function did."""
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
    """Execute `plan`; return what it came to and what it raised."""
    try:
        return plan.execute(), None
    except Exception as error:
        result = getattr(error, "result", None)
        assert isinstance(result, PlanResult)
        return result, error


def cancel_and_sleep(plan: Plan) -> Callable[[Context], None]:
    """Return a hook that cancels `plan` and waits for what comes of it."""

    def hook(ctx: Context) -> None:
        plan.cancel()
        ctx.sleep(60)

    return hook


def record_events(plan: Plan) -> list[Event]:
    """Return a list that fills with the events of `plan`."""
    events: list[Event] = []
    listen(plan, events.append)
    return events
