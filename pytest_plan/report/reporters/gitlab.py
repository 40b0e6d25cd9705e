"""Folds what the plan prints in GitLab CI: provisioning and cleanup are sections of the job's log.

The lines between two markers are a section, which GitLab shows folded, with its duration. What
failed is shown again below, outside of these sections.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.events import CleanupBegan, Event, StepStarted
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.session import PlanSession

_CLEAR = "\x1b[0K"  # removes the marker from what is shown


@pytest.hookimpl(tryfirst=True)  # a section begins above the first line about its steps
def pytest_plan_make_listener(config: pytest.Config) -> Callable[[Event], None]:
    """Return a listener that writes the markers of sections."""
    return Sections(config).on_event


class Sections:
    """Writes the markers of one run, unless `-q` leaves nothing to fold."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._plan: PlanSession = lookup.of(config)
        self._open: str | None = None  # the name of the section that is open
        self._count = 0
        self._plan.host.output.before_others = self._end_of_phase

    def on_event(self, event: Event) -> None:
        """Open a section before the first line about a phase."""
        match event:
            case StepStarted() if self._open is None:
                self._begin("provision", "plan: provisioning")
            case CleanupBegan(steps=steps) if steps:
                self._end()
                self._begin("cleanup", "plan: cleanup")

    def _end_of_phase(self) -> None:
        if self._open is not None and not self._plan.host.output.is_capturing:
            self._end()

    def _begin(self, kind: str, title: str) -> None:
        output = self._plan.host.output
        # Tests that run at the same time write lines of their own, which must not be folded.
        if not output.is_capturing or self._config.get_verbosity() < 0:
            return
        self._count += 1
        self._open = f"plan_{kind}_{self._plan.handle.run_id}_{self._count}"
        self._write("section_start", f"{self._open}[collapsed=true]", title)

    def _end(self) -> None:
        if self._open is not None:
            name, self._open = self._open, None
            self._write("section_end", name, "")

    def _write(self, marker: str, name: str, title: str) -> None:
        seconds = int(SystemClock.wall())
        line = f"{_CLEAR}{marker}:{seconds}:{name}\r{_CLEAR}{title}"
        self._plan.host.foreground.write_line(line)
