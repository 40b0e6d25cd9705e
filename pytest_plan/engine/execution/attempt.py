"""The forward flow of one step: attempts, each over three hooks, and what is between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from pytest_plan.engine.calls.body import body_of
from pytest_plan.engine.calls.call import Abandoned, Call, Ending, Raised, Refused
from pytest_plan.engine.calls.generator import hook_body
from pytest_plan.engine.calls.scope import CallScope
from pytest_plan.engine.definition.step import Pause
from pytest_plan.engine.execution.cleanup import undo_hooks
from pytest_plan.engine.execution.flow import Effect, Flow, Surroundings, Wait
from pytest_plan.engine.execution.record import StepRecord, tail_of
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import JournalError, PlanDefinitionError, describe
from pytest_plan.engine.model.events import AttemptFailed, StepStarted
from pytest_plan.engine.model.outcomes import EXEC_HOOKS, Hook, StepOutcome
from pytest_plan.engine.model.results import (
    AttemptResult,
    PlanCancelledError,
    PlanTimeoutError,
    StepError,
    StepTimeoutError,
)
from pytest_plan.engine.model.stop import Stop, StopKind


class _Failure(NamedTuple):
    """An attempt that did not succeed.

    Attributes:
        hook: where.
        error: the user's exception, or ours that says why the hook was stopped.
        stop: what stopped the hook, None when it failed by itself.
        is_final: whether no further attempt is possible.
    """

    hook: Hook
    error: BaseException
    stop: Stop | None = None
    is_final: bool = False


def provision(record: StepRecord, around: Surroundings) -> Flow:
    """Run the step's attempts until one succeeds or none is left; the record says how it ended."""
    at = around.elapsed()
    record.begin(at)
    around.emit(StepStarted(record.name, at))
    number = 1
    while failure := (yield from _attempt(record, around, number)):
        if not _may_retry(record, failure, number):
            break
        failed = yield from _before_next(record, around, number, failure)
        if failed is not None:
            failure = failed
            break
        number += 1
    if failure is not None:
        _end_failed(record, around, number, failure)
        return
    stop = yield from _pause(record)
    if stop is not None and isinstance(record.planned.step, Pause):
        record.end(stop.outcome, around.elapsed(), stop.reason)
        return
    record.end(StepOutcome.SUCCEEDED, around.elapsed())


def _attempt(
    record: StepRecord, around: Surroundings, number: int
) -> Generator[Effect, Any, _Failure | None]:
    started = around.services.clock.now()
    timeout = record.planned.options.timeout
    expires = None if timeout is None else started + timeout
    hook = Hook.EXEC
    failure = None
    succeeded: list[Hook] = []
    for hook in record.hooks_to_run():
        failure = yield from _run_hook(record, around, hook, number, expires)
        if failure is not None:
            record.remember(succeeded)
            break
        succeeded.append(hook)
    seconds = around.services.clock.now() - started
    error = None if failure is None else failure.error
    result = AttemptResult(number, hook.value, started - around.began, seconds, error)
    record.attempted(result)
    return failure


def _run_hook(
    record: StepRecord, around: Surroundings, hook: Hook, number: int, expires: float | None
) -> Generator[Effect, Any, _Failure | None]:
    call = _hook_call(record, around, hook, number, expires)
    if not record.has_run:
        call.before = around.services.journal.before(record.planned)
    ending: Ending = yield call
    record.called(has_run=call.has_run, was_refused=isinstance(ending, Refused))
    if hook is Hook.EXEC:
        _note_exec(record, around, call, ending)
    return _failure(record, around, hook, call, ending)


def _hook_call(
    record: StepRecord, around: Surroundings, hook: Hook, number: int, expires: float | None
) -> Call:
    deadlines = [time for time in (expires, around.deadline) if time is not None]
    scope = CallScope(record.name, hook, number, min(deadlines, default=None))
    function = record.planned.hooks[hook]
    keywords = around.arguments(function, scope, record)
    clock = around.services.clock
    body = hook_body(record.name, function, keywords, clock)
    return Call(scope, body, record.log, expires, _budget(record))


def _budget(record: StepRecord) -> str:
    timeout = record.planned.options.timeout
    return "" if timeout is None else f"its timeout of {format_duration(timeout)}"


def _note_exec(record: StepRecord, around: Surroundings, call: Call, ending: Ending) -> None:
    tail = tail_of(call.body)
    if tail is not None and not isinstance(ending, Abandoned):
        record.undo.push_tail(tail, call.scope, around.services.journal.tail_made(record.name))
    if isinstance(ending, (Raised, Abandoned)):
        return
    record.value = ending.value
    if ending.value is None:
        _forget_value(record, around)
        return
    around.services.store.write(record.name, ending.value, None, record.name)


def _failure(
    record: StepRecord, around: Surroundings, hook: Hook, call: Call, ending: Ending
) -> _Failure | None:
    stop = call.scope.flag.stop
    if isinstance(ending, Abandoned):
        record.stack = ending.stack
        assert stop is not None
        error = stop.error(record.name, hook, call.scope.attempt)
        error.add_note("it did not stop when asked: its thread was left behind")
        return _Failure(hook, error, stop, is_final=True)
    if isinstance(ending, Raised):
        return _raised(record, around, hook, call, ending.error)
    if stop is None or (stop.kind is not StopKind.TIMEOUT and _is_last(record, hook)):
        return None
    return _Failure(hook, stop.error(record.name, hook, call.scope.attempt), stop)


def _raised(
    record: StepRecord, around: Surroundings, hook: Hook, call: Call, error: BaseException
) -> _Failure:
    stop = call.scope.flag.stop
    if isinstance(error, (JournalError, *around.stop_on, *around.skip_on)):
        return _Failure(hook, error, is_final=True)
    if stop is None:
        return _Failure(hook, error, is_final=not isinstance(error, Exception))
    if isinstance(error, (StepTimeoutError, PlanTimeoutError, PlanCancelledError)):
        return _Failure(hook, error, stop)
    ours = stop.error(record.name, hook, call.scope.attempt)
    ours.__cause__ = error
    return _Failure(hook, ours, stop)


def _is_last(record: StepRecord, hook: Hook) -> bool:
    return hook is [known for known in EXEC_HOOKS if known in record.planned.hooks][-1]


def _may_retry(record: StepRecord, failure: _Failure, number: int) -> bool:
    if failure.is_final or number >= record.attempts_allowed:
        return False
    if failure.stop is not None and failure.stop.kind is not StopKind.TIMEOUT:
        return False
    return isinstance(failure.error, record.planned.options.retry_on)


def _before_next(
    record: StepRecord, around: Surroundings, number: int, failure: _Failure
) -> Generator[Effect, Any, _Failure | None]:
    """Undo what will be made again and wait; return a failure when there can be no next attempt."""
    again = frozenset(record.hooks_to_run())
    undone = yield from undo_hooks(record, around, again)
    if undone.errors or undone.left:
        for error in undone.errors:
            if isinstance(error.__cause__, around.stop_on):
                return _Failure(failure.hook, error.__cause__, is_final=True)
            failure.error.add_note(f"and could not be undone for another attempt: {error}")
        return failure
    if again >= frozenset(EXEC_HOOKS) & record.planned.hooks.keys():
        yield _own_call(record, around, body_of(around.services.folders.empty, record.name))
    options = record.planned.options
    wait = body_of(seconds_to_wait, options.retry_wait, number, failure.error)
    call = _own_call(record, around, wait)
    ending: Ending = yield call
    if call.scope.flag.stop is not None:
        return _stopped(record, failure, number, call.scope.flag.stop)
    if not isinstance(ending, (Raised, Abandoned)):
        seconds = float(ending.value)
        around.emit(_attempt_failed(record, around, number, failure, seconds))
        stop: Stop | None = yield Wait(seconds)
        return None if stop is None else _stopped(record, failure, number, stop)
    if isinstance(ending, Raised):
        ending.error.__cause__ = ending.error.__cause__ or failure.error
        return _Failure(failure.hook, ending.error, is_final=True)
    return _Failure(failure.hook, failure.error, is_final=True)


def _own_call(record: StepRecord, around: Surroundings, body: Any) -> Call:
    scope = CallScope(record.name, Hook.EXEC, len(record.attempts), None)
    return Call(scope, body, record.log, None, "")


def _attempt_failed(
    record: StepRecord, around: Surroundings, number: int, failure: _Failure, seconds: float
) -> AttemptFailed:
    at = around.elapsed()
    allowed = record.attempts_allowed
    return AttemptFailed(record.name, number, allowed, failure.error, seconds, at)


def _stopped(record: StepRecord, failure: _Failure, number: int, stop: Stop) -> _Failure:
    error = stop.error(record.name, failure.hook, number)
    error.__cause__ = failure.error
    return _Failure(failure.hook, error, stop, is_final=True)


def _pause(record: StepRecord) -> Generator[Effect, Any, Stop | None]:
    step = record.planned.step
    seconds = step.seconds if isinstance(step, Pause) else record.planned.options.pause
    stop: Stop | None = (yield Wait(seconds)) if seconds > 0 else None
    return stop


def _end_failed(record: StepRecord, around: Surroundings, number: int, failure: _Failure) -> None:
    error, at = failure.error, around.elapsed()
    record.cause = error
    _forget_value(record, around)
    if isinstance(error, around.skip_on):
        record.end(StepOutcome.SKIPPED, at, str(error) or describe(error))
        return
    if isinstance(error, around.stop_on):
        record.end(StepOutcome.CANCELLED, at, describe(error))
        return
    stop = failure.stop
    if stop is not None and stop.kind is StopKind.CANCEL:
        record.end(stop.outcome, at, stop.reason)
        return
    if stop is not None and stop.kind is StopKind.LIMIT:
        record.error = record.stopped(failure.hook, number, error)
        record.end(stop.outcome, at, stop.reason)
        return
    record.error = record.fail(failure.hook, number, error)
    timed_out = stop is not None and isinstance(error, StepError)
    outcome = StepOutcome.TIMED_OUT if timed_out else StepOutcome.FAILED
    record.end(outcome, at, describe(error))


def _forget_value(record: StepRecord, around: Surroundings) -> None:
    entry = around.services.store.read(record.name)
    if entry is not None:
        around.services.store.remove(record.name, entry.version, record.name)


FIRST_WAIT = 0.5


LONGEST_WAIT = 30.0


_JITTER = 1.0


def seconds_to_wait(
    wait: float | Callable[..., float] | None, attempt: int, error: BaseException
) -> float:
    """Return the seconds between a failed attempt and the next.

    Args:
        wait: seconds, a tenacity wait, or None for exponential with jitter, 0.5 to 30 s.
        attempt: the attempt that failed, counted from 1.
        error: what it failed with.

    Raises:
        PlanDefinitionError: the tenacity wait returned no usable number.
    """
    if isinstance(wait, (int, float)):
        return float(wait)
    # Imported here: tenacity brings asyncio, and most plans never retry.
    import tenacity

    if wait is None:
        longest = LONGEST_WAIT - _JITTER
        wait = tenacity.wait_exponential(multiplier=FIRST_WAIT, max=longest) + tenacity.wait_random(
            0, _JITTER
        )
    state: Any = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = attempt
    state.set_exception((type(error), error, error.__traceback__))
    seconds: object = wait(state)
    if not isinstance(seconds, (int, float)) or not math.isfinite(seconds) or seconds < 0:
        raise PlanDefinitionError(f"retry_wait returned {seconds!r}, which is no time to wait")
    return float(seconds)
