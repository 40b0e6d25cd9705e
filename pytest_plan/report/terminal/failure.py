"""A failed step, told once and in full."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.model.outcomes import CleanupOutcome
from pytest_plan.engine.model.results import StepError, StepResult
from pytest_plan.plugin.session.session import PlanSession
from pytest_plan.report.terminal import encoding

_OURS = Path(__file__).parent.parent.parent


class _Crash(NamedTuple):
    """What pytest's short summary says about a report."""

    message: str


class Text(NamedTuple):
    """A `longrepr`: lines for the terminal, and one for the short summary."""

    lines: tuple[str, ...]
    reprcrash: _Crash

    def toterminal(self, writer: Any) -> None:
        """Write the lines, those of the error in red, as pytest does."""
        for line in self.lines:
            is_error = line.startswith("E ")
            writer.line(encoding.shown(line), red=is_error, bold=is_error)

    def __str__(self) -> str:
        return "\n".join(self.lines)


def step_report(config: pytest.Config, plan: PlanSession, result: StepResult) -> pytest.TestReport:
    """Return the report of a failed step."""
    error = result.error
    assert error is not None
    lines = [
        f"{error} ({result.origin})",
        "",
        *error_lines(config, error),
        *_attempts(result),
        *_stack(result),
        f"next: {_advice(result)}",
    ]
    return _report(plan, result, "setup", lines, error.summary)


def cleanup_report(
    config: pytest.Config, plan: PlanSession, result: StepResult
) -> pytest.TestReport:
    """Return the report of a step whose cleanup did not succeed."""
    cleanup = result.cleanup
    lines = []
    for error in cleanup.errors:
        head = f"{error} ({result.origin})"
        lines += [head, *getattr(error, "__notes__", ()), "", *error_lines(config, error)]
    lines += _stack(result)
    if cleanup.left:
        lines.append(f"not undone, remove it by hand: {', '.join(cleanup.left)}")
    lines.append(f"the other cleanups went on; this one took {format_duration(cleanup.seconds)}")
    message = cleanup.errors[0].summary if cleanup.errors else "was abandoned"
    return _report(plan, result, "teardown", lines, message)


def can_pause(plan: PlanSession) -> bool:
    """Whether there is somebody at a terminal to press Enter."""
    # Under pytest's capture the standard input is not the terminal.
    with plan.host.output.visible(keyboard=True):
        return sys.__stdin__ is not None and sys.__stdin__.isatty()


def pause(config: pytest.Config, plan: PlanSession, result: StepResult) -> None:
    """Wait for Enter, so that someone can look at what the failed step has left."""
    writer = config.get_terminal_writer()
    plan.host.hold()
    try:
        with plan.host.output.visible(keyboard=True):
            assert sys.__stdin__ is not None
            writer.line(encoding.shown(plan.host.mask(result.log_tail)))
            writer.line(f"artifacts: {plan.host.run.facts.folders.artifacts(result.name)}")
            writer.line(f"step {result.name!r} failed; press Enter to go on to its cleanup")
            writer.flush()
            sys.__stdin__.readline()
    finally:
        plan.host.go_on()


def _report(
    plan: PlanSession, result: StepResult, when: Any, lines: list[str], message: str
) -> pytest.TestReport:
    title = f"plan step {result.name!r}"
    masked = tuple(plan.host.mask("\n".join(lines)).splitlines())
    crash = _Crash(encoding.shown(plan.host.mask(message)))
    file, _, line = result.origin.rpartition(":")
    sections = [("Captured output of all steps, past their logs", plan.host.output.text)]
    if result.log_tail:
        sections.append((f"Captured log of {title} (last lines)", result.log_tail))
    return pytest.TestReport(
        nodeid=_node_id(plan.config, title, file),
        location=(file, int(line) - 1 if line.isdecimal() else None, title),
        keywords={},
        outcome="failed",
        longrepr=Text(masked, crash),  # type: ignore[arg-type]
        when=when,
        sections=[(name, encoding.shown(text)) for name, text in sections if text.strip()],
    )


def _node_id(config: pytest.Config, title: str, file: str) -> str:
    if config.invocation_params.dir == config.rootpath:
        return title
    # pytest shows a node id as a path from where it was started: give it one.
    return f"{os.path.relpath(file, config.rootpath)}::{title}"


def error_lines(config: pytest.Config, error: StepError) -> list[str]:
    """Return what a step failed with as pytest shows it: the user's frames and the text."""
    cause = error.__cause__ or error
    if not _users_frames(cause) or not getattr(cause, "pytrace", True):
        return [f"E   {line}" for line in f"{type(cause).__name__}: {cause}".splitlines()] + [""]
    info = pytest.ExceptionInfo.from_exception(cause)
    style = config.getoption("tbstyle", "auto")
    # No locals: they may hold secrets that nobody has told us about.
    shown = info.getrepr(
        style="long" if style == "auto" else style,
        tbfilter=_users_part,
        # The cause of what `ctx` raises is one more "not yet": pages of somebody's sockets.
        chain=not _is_raised_by_us(cause),
    )
    text = io.StringIO()
    shown.toterminal(type(config.get_terminal_writer())(text))
    return [*text.getvalue().strip("\n").splitlines(), ""]


def _users_part(info: pytest.ExceptionInfo[BaseException]) -> Any:
    """Return the user's frames: up to the call of ours that raised, if one did."""
    shown = info.traceback.filter(info)
    ours = [_is_ours(str(entry.path)) for entry in shown]
    begin = ours.index(False) if False in ours else len(ours)
    end = ours.index(True, begin) if True in ours[begin:] else len(ours)
    return shown[begin:end]


def _users_frames(error: BaseException) -> list[Any]:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [frame for frame in frames if not _is_ours(frame.f_code.co_filename)]


def _is_raised_by_us(error: BaseException) -> bool:
    """Whether it came out of something of ours that the user called, as `ctx.run`."""
    frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = [_is_ours(file) for file in frames]
    return False in ours and True in ours[ours.index(False) :]


def _is_ours(path: str) -> bool:
    return Path(path).is_relative_to(_OURS)


def _attempts(result: StepResult) -> Iterator[str]:
    if len(result.attempts) < 2:
        return
    yield f"attempts ({result.attempts_allowed} allowed):"
    for attempt in result.attempts:
        ended = "ok" if attempt.error is None else describe(attempt.error)
        took = format_duration(attempt.seconds)
        yield f"  {attempt.number}  {attempt.hook:<9}  {took:>7}  {ended}"


def _stack(result: StepResult) -> Iterator[str]:
    if result.stack:
        yield "it did not stop when asked, and its thread was left here:"
        yield from result.stack.rstrip().splitlines()


def _advice(result: StepResult) -> str:
    undo = (
        "what it made is undone at the end of the run"
        if result.cleanup.outcome is CleanupOutcome.NONE
        else "what it made has been undone"
    )
    program = os.path.basename(sys.argv[0])
    program = "pytest" if program in ("", "-c", "-m", "__main__.py") else program
    return f"{undo}; `{program} --plan-until {result.name}` runs it and what it needs alone"
