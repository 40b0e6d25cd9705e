"""Formats the tracebacks of failed steps and cleanups, and pauses at a failed step."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.results import StepError, StepResult
from pytest_plan.engine.model.text import printable
from pytest_plan.engine.shared.log import TAIL_LINES
from pytest_plan.plugin.session.session import PlanSession

_PACKAGE = Path(__file__).parent.parent.parent
_LOG_BYTES = 64 * 1024  # in which the last lines of a log are looked for


def can_pause(plan: PlanSession) -> bool:
    """Return whether standard input is a terminal, so that someone can press Enter."""
    # pytest's capture replaces standard input; `visible` restores it.
    with plan.host.output.visible(keyboard=True):
        return sys.__stdin__ is not None and sys.__stdin__.isatty()


def pause(plan: PlanSession, result: StepResult) -> None:
    """Show the log and wait for Enter, so that the user can inspect what the step left behind."""
    writer = plan.config.get_terminal_writer()
    plan.host.hold()
    try:
        with plan.host.output.visible(keyboard=True):
            assert sys.__stdin__ is not None
            writer.line(printable(plan.host.mask(result.log_tail)))
            writer.line(f"artifacts: {plan.host.run.facts.folders.artifacts(result.name)}")
            writer.line(f"step {result.name!r} failed; press Enter to continue with its cleanup")
            writer.flush()
            sys.__stdin__.readline()
    finally:
        plan.host.resume()


def formatted(config: pytest.Config, error: StepError) -> Any | None:
    """Return the traceback of a failed step as pytest formats it, limited to the user's frames.

    Return None if no frame is the user's, or if the exception asks for no traceback.
    """
    cause = error.__cause__ or error
    # If this package raised the error (in `ctx.wait_until`, for example), the cause of the error
    # is only the last failed check: often a page of socket or HTTP internals.
    frames = frames_of(cause)
    chain = _users_frames(_files_of(frames)).stop == len(frames)
    with users_only(cause) as is_users:
        if not is_users or not getattr(cause, "pytrace", True):
            return None
        style = config.getoption("tbstyle", "auto")
        # Local variables are never shown, because they may hold secrets that pytest-plan does not
        # know.
        return pytest.ExceptionInfo.from_exception(cause).getrepr(
            style="long" if style == "auto" else style, tbfilter=_users_entries, chain=chain
        )


def error_lines(config: pytest.Config, error: StepError) -> list[str]:
    """Return the traceback of a failed step in pytest's style, limited to the user's frames."""
    shown = formatted(config, error)
    if shown is None:
        return [*bare_lines(error), ""]
    text = io.StringIO()
    writer = type(config.get_terminal_writer())(text)
    writer.hasmarkup = False  # PY_COLORS turns it on
    shown.toterminal(writer)
    return [*text.getvalue().strip("\n").splitlines(), ""]


def bare_lines(error: StepError) -> list[str]:
    """Return the type and message of the user's exception, marked as pytest marks errors."""
    cause = error.__cause__ or error
    return [f"E   {line}" for line in f"{type(cause).__name__}: {cause}".splitlines()]


@contextlib.contextmanager
def users_only(cause: BaseException) -> Iterator[bool]:
    """Limit the traceback of an exception to the user's frames within this context.

    Yields:
        Whether there are any.
    """
    whole, limited = cause.__traceback__, None
    frames = frames_of(cause)
    for entry in reversed(frames[_users_frames(_files_of(frames))]):
        limited = TracebackType(limited, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    try:
        cause.__traceback__ = limited
        yield limited is not None
    finally:
        cause.__traceback__ = whole


def lost_line(result: StepResult) -> str:
    """Return which step was lost, when and how, on one line."""
    assert result.lost is not None
    return (
        f"{result.name} lost at {SystemClock.time_of_day(result.lost.wall)}: {result.lost.detail}"
    )


def loss_error(result: StepResult) -> StepError:
    """Return an error that says how a step was lost while tests ran."""
    assert result.lost is not None
    at = SystemClock.time_of_day(result.lost.wall)
    text, attempt = f"step {result.name!r} was lost at {at}", len(result.attempts)
    error = StepError(text, step=result.name, hook="exec", attempt=attempt)
    error.__cause__ = RuntimeError(f"lost while tests ran: {result.lost.detail}")
    return error


def stack_lines(result: StepResult) -> Iterator[str]:
    """Yield the stack of the step's abandoned thread; nothing if no thread was abandoned."""
    if result.stack:
        yield f"step {result.name!r} did not stop when requested; stack of its abandoned thread:"
        yield from result.stack.rstrip().splitlines()


def log_lines(plan: PlanSession, step: str) -> Iterator[str]:
    """Yield where the whole log of a step is; nothing if it has none that outlives the run."""
    file = plan.host.run.step_runs[step].log.existing
    if file is not None and file.is_relative_to(plan.settings.dir):
        yield f"The whole log: {os.path.relpath(file)}"


def log_end(plan: PlanSession, step: str) -> list[str]:
    """Return the last lines of the log of a step, and where all of it is; [] without such a log."""
    file = plan.host.run.step_runs[step].log.existing
    where = list(log_lines(plan, step))
    if file is None or not where:
        return []
    text = ""
    with contextlib.suppress(OSError), file.open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
        text = log.read().decode("utf-8", "backslashreplace")
    return [*text.splitlines()[-TAIL_LINES:], *where]


def _users_entries(info: pytest.ExceptionInfo[BaseException]) -> Any:
    entries = info.traceback.filter(info)
    return entries[_users_frames([str(entry.path) for entry in entries])]


def _users_frames(files: Sequence[str]) -> slice:
    """Return the range of the user's frames: from the first one up to a call into this package."""
    ours = [Path(file).is_relative_to(_PACKAGE) for file in files]
    begin = ours.index(False) if False in ours else len(ours)
    end = ours.index(True, begin) if True in ours[begin:] else len(ours)
    return slice(begin, end)


def frames_of(error: BaseException) -> list[TracebackType]:
    """Return the entries of an exception's traceback, outermost first."""
    entries, entry = [], error.__traceback__
    while entry is not None:
        entries.append(entry)
        entry = entry.tb_next
    return entries


def _files_of(entries: Sequence[TracebackType]) -> list[str]:
    return [entry.tb_frame.f_code.co_filename for entry in entries]
