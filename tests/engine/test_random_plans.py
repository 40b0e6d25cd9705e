"""Random plans run on the real engine, and `tests.engine.support.model` checks the history."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from pytest_plan import Context, GenericStep, Plan, Step, StepError
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.model import (
    EXEC_HOOKS,
    RETRY_WAIT,
    TIMEOUT,
    UNDO,
    Call,
    Entry,
    ModelPlan,
    ModelStep,
    check,
)
from tests.engine.support.steps import execute

TICK = 0.01  # seconds of the fake clock
START = 1000.0
FORMS = ("plain", "coroutine", "generator", "async generator")


class Crash(BaseException):
    """An error that is no Exception."""


@dataclass
class Recorder:
    """Records the calls of a run's hooks with their times."""

    clock: FakeClock = field(default_factory=lambda: FakeClock(START))
    history: list[Entry] = field(default_factory=list)

    def time(self) -> float:
        """Return the time in ticks since the start."""
        return round((self.clock.now() - START) / TICK, 3)

    def call(self, step: str, call: Call, function: Callable[[], None]) -> None:
        """Call `function`, and record the beginning and the end."""
        self.history.append(Entry(step, call, self.time()))
        try:
            function()
        finally:
            self.history.append(Entry(step, call, self.time()))


class Fake:
    """The hooks of a step, which record their calls, take their time and fail as planned."""

    def __init__(self, step: ModelStep, recorder: Recorder) -> None:
        self.step = step
        self._recorder = recorder

    def build(self) -> Step:
        """Return the step for the engine."""
        hooks: dict[str, Callable[..., Any]] = {
            "pre_exec": lambda ctx: self._act("pre_exec", ctx),
            "exec": self._exec(),
            "post_exec": lambda ctx, value: self._act("post_exec", ctx, value=value),
            "cleanup": self._cleanup,
        }
        mine = {name: hooks[name] for name in self.step.hooks}
        if not self.step.repeats:
            return GenericStep(**mine)
        methods = {name: staticmethod(function) for name, function in mine.items()}
        cls: type[Step] = type("Repeating", (Step,), methods)
        return cls()

    def _exec(self) -> Callable[..., Any]:
        def plain(ctx: Context, **taken: object) -> object:
            return self._act("exec", ctx, **taken)

        async def coroutine(ctx: Context, **taken: object) -> object:
            return self._act("exec", ctx, **taken)

        def generator(ctx: Context, **taken: object) -> Any:
            yield self._act("exec", ctx, **taken)
            self._undo("exec", ctx.attempt, "tail")

        async def async_generator(ctx: Context, **taken: object) -> Any:
            yield self._act("exec", ctx, **taken)
            self._undo("exec", ctx.attempt, "tail")

        functions: list[Any] = [plain, coroutine, generator, async_generator]
        function = functions[FORMS.index(self.step.form)]
        names = ("ctx", *self.step.taken)
        parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
        function.__signature__ = inspect.Signature(parameters)
        hook: Callable[..., Any] = function
        return hook

    def _act(self, hook: str, ctx: Context, **taken: object) -> str:
        values = {name: self.step.name if name == "value" else name for name in taken}
        wrong = {name: value for name, value in taken.items() if value != values[name]}
        call = (hook, ctx.attempt, wrong) if wrong else (hook, ctx.attempt)
        self._recorder.call(self.step.name, call, lambda: self._work(hook, ctx))
        return self.step.name

    def _work(self, hook: str, ctx: Context) -> None:
        for number in range(self.step.defers.get(hook, 0)):
            ctx.defer(self._undo, hook, ctx.attempt, number)
        fault = self.step.faults.get((hook, ctx.attempt))
        ctx.sleep(TICK * (100 * TIMEOUT if fault == "hang" else self.step.hooks[hook]))
        if fault is not None:
            raise Crash if fault == "crash" else ValueError(fault)

    def _undo(self, *call: Any) -> None:
        def work() -> None:
            condition = threading.Condition()
            with condition:
                self._recorder.clock.wait_for(condition, lambda: False, TICK * UNDO)
            self._raise_if_broken(call)

        self._recorder.call(self.step.name, call, work)

    def _cleanup(self, ctx: Context) -> None:
        def work() -> None:
            ctx.sleep(TICK * self.step.hooks["cleanup"])
            self._raise_if_broken(("cleanup",))

        self._recorder.call(self.step.name, ("cleanup", ctx.reason), work)

    def _raise_if_broken(self, call: Call) -> None:
        if self.step.fails(call):
            raise OSError(f"{call} fails")


NAPS = st.integers(0, 2)  # ticks; three of them are shorter than TIMEOUT
HOOKS = st.sampled_from(EXEC_HOOKS)
FAULTS = st.sampled_from(["error", "error", "crash", "hang"])
# A fault of a hook that the step does not have, or of an attempt that it never makes, is none.
MOMENTS = st.tuples(HOOKS, st.sampled_from([1, 1, 1, 2, 2, 3, 4]))
SHAPES = st.builds(
    ModelStep,
    name=st.just(""),
    needs=st.none(),
    hooks=st.fixed_dictionaries(
        {"exec": NAPS}, optional={"pre_exec": NAPS, "post_exec": NAPS, "cleanup": NAPS}
    ),
    repeats=st.booleans(),
    retries=st.integers(0, 3),
    faults=st.dictionaries(MOMENTS, FAULTS, max_size=3),
    defers=st.dictionaries(HOOKS, st.integers(1, 2), max_size=2),
    broken=st.frozensets(st.sampled_from([*EXEC_HOOKS, "tail", "cleanup"]), max_size=2),
    cleanup_when=st.sampled_from(["succeeded", "attempted"]),
    form=st.sampled_from(FORMS),
)
PLACES = st.sampled_from(["list", "list", "named", "named", "free"])
STOPS = st.sampled_from(["", "", "cancelled", "timed_out"])


@st.composite
def plans(draw: st.DrawFn) -> ModelPlan:
    """A plan of 1 to 12 steps, possibly with a time at which it is stopped."""
    places = draw(st.lists(PLACES, min_size=1, max_size=12))
    free = {number for number, place in enumerate(places) if place == "free"}
    steps = []
    for number, place in enumerate(places):
        # What waits for nothing may also be needed by a step declared before it.
        known = sorted({*range(number), *free})
        wanted = st.sets(st.sampled_from(known), max_size=3) if known else st.just(set[int]())
        chosen = draw(wanted) if place == "named" else ()
        needs = tuple(f"s{need}" for need in chosen)
        step = replace(draw(SHAPES), name=f"s{number}", needs=None if place == "list" else needs)
        steps.append(replace(step, taken=needs[: draw(st.integers(0, len(needs)))]))
    plan = ModelPlan(steps, draw(st.integers(1, 4)), draw(st.booleans()))
    stop = draw(STOPS)
    return replace(plan, stop=stop, stop_at=draw(st.integers(0, 40)) + 0.5) if stop else plan


SIMPLE = ModelStep(
    name="s0",
    needs=(),
    hooks={"exec": 0},
    repeats=False,
    retries=0,
    faults={},
    defers={},
    broken=frozenset(),
    cleanup_when="succeeded",
)
STOPPED_BETWEEN_ATTEMPTS = ModelPlan(
    steps=[replace(SIMPLE, retries=1, faults={("exec", 1): "error"}, defers={"exec": 2})],
    jobs=1,
    continue_on_error=False,
    stop="cancelled",
    stop_at=1.5,
)
BLOCKED_BEHIND_THE_LAST = ModelPlan(
    steps=[
        replace(SIMPLE, form="generator"),
        replace(SIMPLE, name="s1", form="generator"),
        replace(SIMPLE, name="s2", faults={("exec", 1): "error"}),
        replace(SIMPLE, name="s3", needs=("s1",)),
    ],
    jobs=1,
    continue_on_error=False,
)


def run(model: ModelPlan) -> tuple[list[Entry], dict[str, str], str | None]:
    """Run the plan; return the history, the outcomes and the name of the error."""
    recorder = Recorder()
    limit = model.stop_at * TICK if model.stop == "timed_out" else None
    plan = Plan(
        limit,
        continue_on_error=model.continue_on_error,
        cleanup_limit="1h",
        jobs=model.jobs,
        clock=recorder.clock,
    )
    for step in model.steps:
        named = [need for need in step.needs or () if need not in step.taken]
        options: Mapping[str, Any] = {} if step.needs is None else {"needs": named}
        plan.add_step(
            Fake(step, recorder).build(),
            name=step.name,
            retries=step.retries,
            retry_wait=RETRY_WAIT * TICK,
            retry_on=BaseException,
            timeout=TIMEOUT * TICK,
            cleanup_when=step.cleanup_when,
            **options,
        )
    with Canceller(plan, recorder.clock, model):
        result, error = execute(plan)
    outcomes = {name: step.outcome.value for name, step in result.steps.items()}
    kind = StepError if isinstance(error, StepError) else type(error)
    return recorder.history, outcomes, kind.__name__ if error else None


class Canceller:
    """Cancels the plan at the time of the model, on a thread that the fake clock knows."""

    def __init__(self, plan: Plan, clock: FakeClock, model: ModelPlan) -> None:
        self._plan = plan
        self._clock = clock
        self._after = model.stop_at * TICK if model.stop == "cancelled" else None
        self._changed = threading.Condition()
        self._is_over = False
        self._thread = threading.Thread(target=self._wait, name="plan-canceller")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._thread.join()

    def _wait(self) -> None:
        with self._changed:
            over = self._clock.wait_for(self._changed, lambda: self._is_over, self._after)
        if not over:
            self._plan.cancel("the time has come")


@pytest.mark.timeout(600)  # it takes ten seconds, and minutes to shrink a failure
@settings(
    max_examples=200,
    deadline=None,
    database=None,
    derandomize="CI" in os.environ,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],  # to explain takes minutes
    suppress_health_check=[HealthCheck.too_slow],
)
@example(STOPPED_BETWEEN_ATTEMPTS)
@example(BLOCKED_BEHIND_THE_LAST)
@given(plans())
def test_a_random_plan_runs_by_the_rules(plan: ModelPlan) -> None:
    """Every call, outcome and undo is as the model requires."""
    check(plan, *run(plan))
