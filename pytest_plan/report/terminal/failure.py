"""Builds the reports and tracebacks of failed steps and cleanups, and pauses at a failed step."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.model.results import StepError, StepResult
from pytest_plan.engine.model.text import printable, visible
from pytest_plan.plugin.session.session import PlanSession

_PACKAGE = Path(__file__).parent.parent.parent


class _Crash(NamedTuple):
    """The part of a `longrepr` that pytest's short summary reads."""

    message: str


class Text(NamedTuple):
    """A `longrepr`: the lines of the report, and the message for the short summary."""

    lines: tuple[str, ...]
    reprcrash: _Crash

    def toterminal(self, writer: Any) -> None:
        """Write the lines; error lines are bold and red, as in pytest's tracebacks."""
        for line in self.lines:
            is_error = line.startswith("E ")
            writer.line(printable(line), red=is_error, bold=is_error)

    def __str__(self) -> str:
        return "\n".join(self.lines)


def step_report(plan: PlanSession, result: StepResult) -> pytest.TestReport:
    """Return the report of a failed step, which pytest lists as an error at setup."""
    error = result.error
    assert error is not None
    lines = [
        f"{error} ({result.origin})",
        "",
        *error_lines(plan.config, error),
        *_attempts(result),
        *stack_lines(result),
        f"To rerun only this step and its dependencies: {_rerun_command(result)}",
    ]
    return _report(plan, result, "setup", lines, error.summary)


def cleanup_report(plan: PlanSession, result: StepResult) -> pytest.TestReport:
    """Return the report of a cleanup that failed, which pytest lists as an error at teardown."""
    cleanup = result.cleanup
    lines = []
    for error in cleanup.errors:
        head = f"{error} ({result.origin})"
        lines += [head, *getattr(error, "__notes__", ()), "", *error_lines(plan.config, error)]
    lines += stack_lines(result)
    if cleanup.left:
        lines.append(f"left to undo by hand: {', '.join(cleanup.left)}")
    took = format_duration(cleanup.seconds)
    lines.append(f"cleanup took {took}; other cleanups were not affected")
    message = cleanup.errors[0].summary if cleanup.errors else "cleanup was abandoned"
    return _report(plan, result, "teardown", lines, message)


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


def _report(
    plan: PlanSession,
    result: StepResult,
    when: Literal["setup", "teardown"],
    lines: list[str],
    message: str,
) -> pytest.TestReport:
    title = f"plan step {result.name!r}"
    mask = plan.host.mask
    masked = tuple(mask("\n".join(lines)).splitlines())
    crash = _Crash(printable(mask(message)))
    file, _, line = result.origin.rpartition(":")
    sections = [("Captured output of all steps (outside their logs)", plan.host.output.text)]
    if result.log_tail:
        sections.append((f"Captured log of {title} (last lines)", mask(result.log_tail)))
    return pytest.TestReport(
        nodeid=_node_id(plan.config, title, file),
        location=(visible(file), int(line) - 1 if line.isdecimal() else None, title),
        keywords={},
        outcome="failed",
        longrepr=Text(masked, crash),  # type: ignore[arg-type]
        when=when,
        sections=[
            (name, printable(plan.host.mask(text))) for name, text in sections if text.strip()
        ],
    )


def _node_id(config: pytest.Config, title: str, file: str) -> str:
    if config.invocation_params.dir == config.rootpath:
        return title
    # pytest shows the path of a node id relative to its working directory, so the id needs a path.
    return visible(f"{os.path.relpath(file, config.rootpath)}::{title}")


def error_lines(config: pytest.Config, error: StepError) -> list[str]:
    """Return the traceback of a failed step in pytest's style, limited to the user's frames."""
    cause = error.__cause__ or error
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(cause.__traceback__)]
    users = _users_frames(files)
    if users.start == users.stop or not getattr(cause, "pytrace", True):
        return [f"E   {line}" for line in f"{type(cause).__name__}: {cause}".splitlines()] + [""]
    info = pytest.ExceptionInfo.from_exception(cause)
    style = config.getoption("tbstyle", "auto")
    # Local variables are never shown, because they may hold secrets that pytest-plan does not know.
    shown = info.getrepr(
        style="long" if style == "auto" else style,
        tbfilter=_users_entries,
        # If this package raised the error (in `ctx.wait_until`, for example), the cause of the
        # error is only the last failed check: often a page of socket or HTTP internals.
        chain=users.stop == len(files),
    )
    text = io.StringIO()
    writer = type(config.get_terminal_writer())(text)
    writer.hasmarkup = False  # PY_COLORS turns it on; `Text` chooses the colors
    shown.toterminal(writer)
    return [*text.getvalue().strip("\n").splitlines(), ""]


def _users_entries(info: pytest.ExceptionInfo[BaseException]) -> Any:
    entries = info.traceback.filter(info)
    return entries[_users_frames([str(entry.path) for entry in entries])]


def _users_frames(files: Sequence[str]) -> slice:
    """Return the range of the user's frames: from the first one up to a call into this package."""
    ours = [Path(file).is_relative_to(_PACKAGE) for file in files]
    begin = ours.index(False) if False in ours else len(ours)
    end = ours.index(True, begin) if True in ours[begin:] else len(ours)
    return slice(begin, end)


def _attempts(result: StepResult) -> Iterator[str]:
    if len(result.attempts) < 2:
        return
    yield f"attempts ({result.attempts_allowed} allowed):"
    for attempt in result.attempts:
        ended = "ok" if attempt.error is None else describe(attempt.error)
        took = format_duration(attempt.seconds)
        yield f"  {attempt.number}  {attempt.hook:<9}  {took:>7}  {ended}"


def stack_lines(result: StepResult) -> Iterator[str]:
    """Yield the stack of the step's abandoned thread; nothing if no thread was abandoned."""
    if result.stack:
        yield f"step {result.name!r} did not stop when requested; stack of its abandoned thread:"
        yield from result.stack.rstrip().splitlines()


def _rerun_command(result: StepResult) -> str:
    program = os.path.basename(sys.argv[0])
    program = "pytest" if program in ("", "-c", "-m", "__main__.py") else program
    return f"{program} --plan-until {result.name}"
