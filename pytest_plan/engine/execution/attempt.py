"""The forward flow of one step: its attempts, the waits between them, and its pause.

An attempt calls the three exec hooks in order. If it is abandoned, the step is never retried.
"""

# Annotations are not postponed: a NamedTuple would compile each of them.
import functools
import math
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from pytest_plan.engine.calls.call import (
    Abandoned,
    Call,
    CallScope,
    Ending,
    Raised,
    Refused,
    Returned,
)
from pytest_plan.engine.calls.stopping.interrupt import StepInterrupted
from pytest_plan.engine.definition.step import Pause
from pytest_plan.engine.execution.cleanup import Undone, undo_hooks
from pytest_plan.engine.execution.flow import Effect, Flow, Wait, hook_call, own_call
from pytest_plan.engine.execution.step_run import StepRun, tail_of
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
from pytest_plan.engine.shared.run_facts import RunFacts

# The default wait between two attempts, in seconds.
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
_JITTER = 1.0
_LOOK_AGAIN = 0.05  # seconds between two looks at who listens on the ports of a step


class _Failure(NamedTuple):
    """A failed attempt.

    Attributes:
        hook: the hook that failed.
        error: the user's exception, or the engine's error that says why the hook was stopped.
        text: the class and message of `error` on one line.
        stop: the request that stopped the hook; None if the hook failed on its own.
        is_final: whether no further attempt may be made.
    """

    hook: Hook
    error: BaseException
    text: str
    stop: Stop | None = None
    is_final: bool = False


def provision(step_run: StepRun, facts: RunFacts) -> Flow:
    """Make attempts until one succeeds or none is left, pause, and set the step's outcome."""
    at = facts.elapsed()
    step_run.begin(at)
    if facts.listeners:
        facts.emit(StepStarted(step_run.name, at))
    number = 1
    while failure := (yield from _attempt(step_run, facts, number)):
        if not _may_retry(step_run, failure, number):
            break
        failed = yield from _before_next(step_run, facts, number, failure)
        if failed is not None:
            failure = failed
            break
        number += 1
    if failure is not None:
        _end_failed(step_run, facts, number, failure)
        return
    stop = yield from _pause(step_run)
    if stop is not None and isinstance(step_run.planned.step, Pause):
        step_run.end(stop.outcome, facts.elapsed(), stop.reason)
        return
    step_run.end(StepOutcome.SUCCEEDED, facts.elapsed())


def close(step_run: StepRun, facts: RunFacts) -> Flow:
    """Record in the journal how the step ended, and read the log of a failed step.

    Reading the log and writing durably both wait for the disk, so a call does this work.
    """
    failed = step_run.error is not None
    if not failed and not facts.journal.ends_durably(step_run.planned):
        _record_end(step_run, facts, "")
        return
    ending: Ending = yield own_call(step_run, _close, step_run, facts, failed, shielded=True)
    if isinstance(ending, Raised):
        raise ending.error
    if isinstance(ending, Returned):
        step_run.logged(ending.value)


def _close(step_run: StepRun, facts: RunFacts, failed: bool) -> str:
    log_tail = step_run.log.tail() if failed else ""
    _record_end(step_run, facts, log_tail)
    return log_tail


def _record_end(step_run: StepRun, facts: RunFacts, log_tail: str) -> None:
    facts.journal.step_ended(
        step_run.planned,
        step_run.outcome,
        step_run.completed,
        log_tail,
        has_begun=step_run.has_begun,
    )


def _attempt(
    step_run: StepRun, facts: RunFacts, number: int
) -> Generator[Effect, Any, _Failure | None]:
    started = facts.clock.now()
    timeout = step_run.planned.options.timeout
    expires = None if timeout is None else started + timeout
    hook = Hook.EXEC
    failure = None
    if Hook.EXEC not in step_run.remembered:
        _forget_earlier_value(step_run, facts)
    succeeded: list[Hook] = []
    for hook in step_run.hooks_to_run():
        failure = yield from _run_hook(step_run, facts, hook, number, expires)
        if failure is not None:
            step_run.remember(succeeded)
            break
        succeeded.append(hook)
    seconds = facts.clock.now() - started
    error = None if failure is None else failure.error
    result = AttemptResult(number, hook.value, started - facts.began, seconds, error)
    step_run.attempted(result)
    return failure


def _run_hook(
    step_run: StepRun, facts: RunFacts, hook: Hook, number: int, expires: float | None
) -> Generator[Effect, Any, _Failure | None]:
    call = _hook_call(step_run, facts, hook, number, expires)
    ending: Ending = yield call
    step_run.called(has_run=call.has_run, was_refused=isinstance(ending, Refused))
    if hook is Hook.EXEC:
        _note_exec(step_run, facts, call, ending)
    return _failure(step_run, facts, hook, call, ending)


def _hook_call(
    step_run: StepRun, facts: RunFacts, hook: Hook, number: int, expires: float | None
) -> Call:
    deadline = facts.deadline
    if expires is not None:
        deadline = expires if deadline is None else min(expires, deadline)
    call = hook_call(
        step_run,
        facts,
        hook,
        attempt=number,
        deadline=deadline,
        expires=expires,
        budget=_budget(step_run),
    )
    if not step_run.has_run:
        call.before = facts.journal.before(step_run.planned)
    if step_run.planned.hooks[hook].takes("ctx"):  # others start no programs
        call.confirm = functools.partial(_confirm, step_run, facts, call.scope)
    if hook is Hook.EXEC:
        call.prepare = functools.partial(facts.store.prepare, step_run.name)
    return call


def _confirm(step_run: StepRun, facts: RunFacts, scope: CallScope) -> None:
    """Check the programs of a step whose hook has returned."""
    if not facts.programs.concern(step_run.name) or scope.stopping():
        return
    with scope.uninterrupted:
        while not facts.programs.check_returned(step_run.name, facts.clock.now()):
            if scope.pause(facts.clock, _LOOK_AGAIN):
                break
        facts.programs.record_daemons(step_run.name, facts.journal)


def _budget(step_run: StepRun) -> str:
    timeout = step_run.planned.options.timeout
    return "" if timeout is None else f"its timeout of {format_duration(timeout)}"


def _note_exec(step_run: StepRun, facts: RunFacts, call: Call, ending: Ending) -> None:
    tail = tail_of(call.body)
    if tail is not None:
        step_run.undo.push_tail(tail, call.scope, facts.journal.tail_made(step_run.name))
    if isinstance(ending, Returned) and ending.value is not None:
        step_run.value = ending.value
        facts.store.commit(step_run.name, ending.prepared, None, step_run.name)


def _failure(
    step_run: StepRun, facts: RunFacts, hook: Hook, call: Call, ending: Ending
) -> _Failure | None:
    stop = call.scope.flag.stop
    if isinstance(ending, Abandoned):
        step_run.left_behind(ending.stack)
        assert stop is not None
        error = stop.error(step_run.name, hook, call.scope.attempt)
        error.add_note("it did not stop when requested, and its thread was abandoned")
        return _Failure(hook, error, describe(error), stop, is_final=True)
    if isinstance(ending, Raised):
        return _raised(step_run, facts, hook, call, ending)
    # If the last hook returned although the plan was cancelled or reached its limit, the step is
    # complete. It must count as a success, because by default the `cleanup` hook runs only after
    # success. A step that exceeded its own timeout still fails.
    if stop is None or (stop.kind is not StopKind.TIMEOUT and _is_last(step_run, hook)):
        return None
    error = stop.error(step_run.name, hook, call.scope.attempt)
    return _Failure(hook, error, describe(error), stop)


def _raised(step_run: StepRun, facts: RunFacts, hook: Hook, call: Call, raised: Raised) -> _Failure:
    stop, error = call.scope.flag.stop, raised.error
    if isinstance(error, (JournalError, *facts.stop_on, *facts.skip_on)):
        return _Failure(hook, error, raised.text, is_final=True)
    if stop is None:
        return _Failure(hook, error, raised.text, is_final=not isinstance(error, Exception))
    if isinstance(error, (StepTimeoutError, PlanTimeoutError, PlanCancelledError)):
        return _Failure(hook, error, raised.text, stop)
    ours = stop.error(step_run.name, hook, call.scope.attempt)
    if isinstance(error, StepInterrupted):
        # The engine interrupted the hook. This traceback shows where.
        ours.__traceback__ = error.__traceback__
    else:
        ours.__cause__ = error
    return _Failure(hook, ours, describe(ours), stop)


def _is_last(step_run: StepRun, hook: Hook) -> bool:
    return hook is [known for known in EXEC_HOOKS if known in step_run.planned.hooks][-1]


def _may_retry(step_run: StepRun, failure: _Failure, number: int) -> bool:
    if failure.is_final or number >= step_run.attempts_allowed:
        return False
    if failure.stop is not None and failure.stop.kind is not StopKind.TIMEOUT:
        return False
    return isinstance(failure.error, step_run.planned.options.retry_on)


def _before_next(
    step_run: StepRun, facts: RunFacts, number: int, failure: _Failure
) -> Generator[Effect, Any, _Failure | None]:
    """Undo what the next attempt repeats, then wait; return a failure if there is no next one."""
    again = frozenset(step_run.hooks_to_run())
    undone = yield from undo_hooks(step_run, facts, again)
    if undone.errors or undone.left:
        return _not_undone(undone, failure, facts)
    if again >= frozenset(EXEC_HOOKS) & step_run.planned.hooks.keys():
        yield own_call(step_run, facts.folders.empty, step_run.name)
    wait = step_run.planned.options.retry_wait
    # Use a call, because a tenacity wait is the user's code.
    call = own_call(step_run, seconds_to_wait, wait, number, failure.error)
    ending: Ending = yield call
    if call.scope.flag.stop is not None:
        return _stopped(step_run, failure, number, call.scope.flag.stop)
    if isinstance(ending, Returned):
        seconds = float(ending.value)
        facts.emit(_attempt_failed(step_run, facts, number, failure, seconds))
        stop: Stop | None = yield Wait(seconds)
        return None if stop is None else _stopped(step_run, failure, number, stop)
    if isinstance(ending, Raised):
        ending.error.__cause__ = ending.error.__cause__ or failure.error
        return _Failure(failure.hook, ending.error, ending.text, is_final=True)
    return failure._replace(is_final=True)


def _not_undone(undone: Undone, failure: _Failure, facts: RunFacts) -> _Failure:
    """Return the failure of a step whose last attempt cannot be undone."""
    for error in undone.errors:
        if isinstance(error.__cause__, facts.stop_on):
            return _Failure(failure.hook, error.__cause__, error.summary, is_final=True)
        failure.error.add_note(f"no further attempt, because this one was not undone: {error}")
    return failure


def _attempt_failed(
    step_run: StepRun, facts: RunFacts, number: int, failure: _Failure, seconds: float
) -> AttemptFailed:
    at = facts.elapsed()
    allowed = step_run.attempts_allowed
    return AttemptFailed(step_run.name, number, allowed, failure.error, seconds, at)


def _stopped(step_run: StepRun, failure: _Failure, number: int, stop: Stop) -> _Failure:
    error = stop.error(step_run.name, failure.hook, number)
    error.__cause__ = failure.error
    return _Failure(failure.hook, error, describe(error), stop, is_final=True)


def _pause(step_run: StepRun) -> Generator[Effect, Any, Stop | None]:
    step = step_run.planned.step
    seconds = step.seconds if isinstance(step, Pause) else step_run.planned.options.pause
    stop: Stop | None = (yield Wait(seconds)) if seconds > 0 else None
    return stop


def _end_failed(step_run: StepRun, facts: RunFacts, number: int, failure: _Failure) -> None:
    error, stop, at = failure.error, failure.stop, facts.elapsed()
    step_run.cause = error
    _forget_value(step_run, facts)
    if isinstance(error, facts.skip_on):
        step_run.end(StepOutcome.SKIPPED, at, str(error) or failure.text)
    elif isinstance(error, facts.stop_on):
        step_run.end(StepOutcome.CANCELLED, at, failure.text)
    elif stop is not None and stop.kind in (StopKind.CANCEL, StopKind.END):
        step_run.end(stop.outcome, at, stop.reason)
    elif stop is not None and stop.kind is StopKind.LIMIT:
        timeout = step_run.as_timeout_error(failure.hook, number, error)
        step_run.end(stop.outcome, at, stop.reason, timeout)
    else:
        step_error = step_run.as_step_error(failure.hook, number, error, failure.text)
        timed_out = stop is not None and isinstance(error, StepError)
        outcome = StepOutcome.TIMED_OUT if timed_out else StepOutcome.FAILED
        step_run.end(outcome, at, failure.text, step_error)


def _forget_earlier_value(step_run: StepRun, facts: RunFacts) -> None:
    """Remove the value of an earlier attempt. A value that a remembered hook has stored stays."""
    if not step_run.remembered or step_run.value is not None:
        step_run.value = None
        _forget_value(step_run, facts)


def _forget_value(step_run: StepRun, facts: RunFacts) -> None:
    entry = facts.store.read(step_run.name)
    if entry is not None:
        facts.store.remove(step_run.name, entry.version, step_run.name)


def seconds_to_wait(
    wait: float | Callable[..., float] | None, attempt: int, error: BaseException
) -> float:
    """Return the seconds to wait between a failed attempt and the next one.

    Args:
        wait: a number of seconds or a tenacity wait; None means exponential backoff with jitter,
            from 0.5 to 30 seconds.
        attempt: the number of the failed attempt, counted from 1.
        error: the error of that attempt.

    Raises:
        PlanDefinitionError: the tenacity wait did not return a finite number of at least 0.
    """
    if isinstance(wait, (int, float)):
        return float(wait)
    # Imported late because tenacity imports asyncio, and most plans never retry.
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
        raise PlanDefinitionError(
            f"retry_wait returned {seconds!r}; it must return a finite number of seconds, 0 or more"
        )
    return float(seconds)
