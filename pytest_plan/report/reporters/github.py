"""Annotates a run in GitHub Actions: failed and lost steps, and cleanups that did not succeed.

An annotation is a line of the job's log, a *workflow command*. GitHub shows it at the line of the
file, in the pull request and on the page of the run. Tests are left to other plugins.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.model.events import (
    Event,
    PlanFinished,
    StepCleaned,
    StepFinished,
    StepLost,
)
from pytest_plan.engine.model.outcomes import CleanupOutcome
from pytest_plan.engine.model.results import PlanResult, StepResult
from pytest_plan.engine.model.text import printable
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.session import PlanSession
from pytest_plan.report.terminal import failure

MOST = 10  # annotations of a kind that GitHub shows for one step of a job
_LONGEST_TITLE = 200  # characters
_LONGEST_TEXT = 2000  # characters
_MOST_NAMED = 20  # steps

Kind = Literal["error", "warning"]


class _Annotation(NamedTuple):
    """One annotation, whose texts may be shown.

    Attributes:
        kind: the name of the workflow command.
        title: the first line.
        text: the other lines.
        place: the file, relative to the repository, and the line; None if it has no place.
    """

    kind: Kind
    title: str
    text: str
    place: tuple[str, int] | None = None

    def command(self) -> str:
        """Return the workflow command."""
        properties = {"title": _cut(self.title, _LONGEST_TITLE)}
        if self.place is not None:
            properties = {"file": self.place[0], "line": str(self.place[1]), **properties}
        shown = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
        return f"::{self.kind} {shown}::{_data(_cut(self.text, _LONGEST_TEXT))}"


@pytest.hookimpl(trylast=True)  # an annotation comes below the line about the step
def pytest_plan_make_listener(config: pytest.Config) -> Callable[[Event], None]:
    """Return a listener that writes an annotation for each failure of the run."""
    return Annotations(config).on_event


class Annotations:
    """Writes the annotations of one run to the terminal, each at once.

    GitHub shows only the first `MOST` of a kind. If there are more, the last of them says which.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._plan: PlanSession = lookup.of(config)
        self._written = {"error": 0, "warning": 0}
        self._held: dict[Kind, list[_Annotation]] = {"error": [], "warning": []}

    def on_event(self, event: Event) -> None:
        """Write an annotation if the event is about a failure."""
        match event:
            case StepFinished(result=result) if result.outcome.is_failure:
                self._add(self._failure(result))
            case StepLost(result=result):
                self._add(self._loss(result))
            case StepCleaned(result=result) if _is_bad(result):
                self._add(self._cleanup(result))
            case PlanFinished(result=whole):
                self._end(whole)

    def _failure(self, result: StepResult) -> _Annotation:
        lines = [result.reason or "", *self._attempts(result)]
        title = f"plan step {result.name!r} {result.outcome.replace('_', ' ')}"
        return self._annotation("error", title, lines, result)

    def _loss(self, result: StepResult) -> _Annotation:
        title = f"plan step {result.name!r} was lost while tests ran"
        return self._annotation("error", title, [failure.lost_line(result)], result)

    def _cleanup(self, result: StepResult) -> _Annotation:
        cleanup = result.cleanup
        lines = [describe(error.__cause__ or error) for error in cleanup.errors]
        if cleanup.left:
            lines.append(f"not undone: {', '.join(cleanup.left)}")
        ended = cleanup.outcome.replace("_", " ")
        title = f"cleanup of plan step {result.name!r}: {ended}"
        return self._annotation("warning", title, lines or [ended], result)

    def _attempts(self, result: StepResult) -> Iterator[str]:
        if len(result.attempts) > 1:
            yield f"{len(result.attempts)} attempts failed"

    def _annotation(
        self, kind: Kind, title: str, lines: list[str], result: StepResult
    ) -> _Annotation:
        mask = self._plan.host.mask
        lines += failure.log_lines(self._plan, result.name)
        text = mask("\n".join(lines))
        return _Annotation(kind, mask(title), text, self._place(result))

    def _place(self, result: StepResult) -> tuple[str, int] | None:
        """Return the line at which the step failed, or where it is declared.

        GitHub finds the file only if its path begins at the root of the repository.
        """
        name, _, number = result.origin.rpartition(":")
        file = Path(self._config.invocation_params.dir, name)
        line = int(number) if number.isdecimal() else 1
        for error in (result.error, *result.cleanup.errors):
            cause = None if error is None else error.__cause__
            for entry in failure.frames_of(cause) if cause is not None else ():
                if Path(entry.tb_frame.f_code.co_filename) == file:
                    line = entry.tb_lineno
        root = os.environ.get("GITHUB_WORKSPACE") or self._config.rootpath
        path = Path(os.path.relpath(file, root)).as_posix()
        return None if path.startswith("../") else (path, line)

    def _add(self, one: _Annotation) -> None:
        if self._written[one.kind] < MOST - 1:
            self._written[one.kind] += 1
            self._write(one)
        else:
            self._held[one.kind].append(one)

    def _end(self, result: PlanResult) -> None:
        for left in result.left:
            text = self._plan.host.mask(left)
            self._add(_Annotation("warning", "the plan left something behind", text))
        for kind, held in self._held.items():
            if len(held) > 1:
                titles = [one.title for one in held[:_MOST_NAMED]]
                more = len(held) - len(titles)
                text = "\n".join([*titles, *([f"and {more} more"] if more else ())])
                held[:] = [_Annotation(kind, f"{len(held)} more {kind}s of the plan", text)]
            for one in held:
                self._write(one)
            held.clear()

    def _write(self, one: _Annotation) -> None:
        self._plan.host.foreground.write_line(printable(one.command()))


def _is_bad(result: StepResult) -> bool:
    return result.cleanup.outcome is not CleanupOutcome.SUCCEEDED


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
