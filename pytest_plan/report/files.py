"""Writes the report files of `--plan-report` and `plan_github_summary`."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_plan.engine.model.errors import PlanError, describe
from pytest_plan.engine.model.text import printable, visible
from pytest_plan.plugin.interface import ci
from pytest_plan.plugin.interface.values import REPORT_ENDINGS
from pytest_plan.plugin.session import lookup
from pytest_plan.report.collect import Collector
from pytest_plan.report.formats import json_file, markdown, mermaid, trace

if TYPE_CHECKING:
    from pytest_plan.report.account import Account

_SUMMARY = "GITHUB_STEP_SUMMARY"  # set by GitHub Actions
_LEAST_ROOM = 10_000  # bytes; in less, a report would say little


def _html(account: Account, path: Path) -> str:
    from pytest_plan.report.formats import html  # imports Jinja2, which may be missing

    return html.text(account, path.absolute().parent)


_FORMATS: Mapping[str, Callable[[Account, Path], str]] = {
    ".html": _html,
    ".json": lambda account, path: json_file.text(account),
    ".md": lambda account, path: markdown.text(account),
    ".mmd": lambda account, path: mermaid.text(account),
    ".trace.json": lambda account, path: trace.text(account),
}


def pytest_configure(config: pytest.Config) -> None:
    """Check before the run that every report can be written.

    Raises:
        pytest.UsageError: a file cannot be written, or Jinja2 is missing for an HTML report.
    """
    settings = lookup.of(config).settings
    source = settings.sources["report"]
    for path in settings.report:
        if _ending(path) == ".html" and importlib.util.find_spec("jinja2") is None:
            raise pytest.UsageError(
                f"{source}: {path} requires Jinja2, which is not installed; "
                "install it with: pip install 'pytest-plan[report]'"
            )
        if (problem := _problem(path)) is not None:
            raise pytest.UsageError(f"{source}: {path} cannot be written: {problem}")


def pytest_plan_make_listener(config: pytest.Config) -> Callable[[Any], None]:
    """Collect the data of the run, and write the reports when the plan has finished."""
    writer = ReportFiles(config)
    config.pluginmanager.register(writer, "pytest_plan_report_files")
    collector = Collector(config, writer.write)
    config.pluginmanager.register(collector, "pytest_plan_collector")
    return collector.on_event


@pytest.hookimpl(trylast=True)
def pytest_plan_show(config: pytest.Config) -> None:
    """Write the graph of the steps, the only report that does not need a run."""
    plan = lookup.of(config)
    writer = config.get_terminal_writer()
    for path in plan.settings.report:
        if _ending(path) != ".mmd":
            line = f"{path} was not written: without a run, only .mmd reports are written"
            writer.line(printable(visible(line)))
            continue
        _write(path, mermaid.graph(list(plan.declared.steps.values())))
        writer.line(printable(visible(f"plan report: {path}")))


class ReportFiles:
    """Writes the report files of one run and lists them in pytest's summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._settings = lookup.of(config).settings
        self._lines: list[tuple[str, dict[str, bool]]] = []

    def write(self, account: Account) -> None:
        """Write every report; an error in one does not prevent the others from being written."""
        for path in self._settings.report:
            self._try(str(path), functools.partial(_write_report, path, account))
        summary, wanted = os.environ.get(_SUMMARY), self._settings.github_summary
        if wanted is None:
            wanted = self._settings.ci == ci.GITHUB and bool(account.steps)
        if wanted and summary:
            self._try(f"${_SUMMARY}", lambda: _add_summary(Path(summary), account))

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List the reports below the table of the plan; with `-q`, list only those not written."""
        for line, markup in self._lines:
            if markup or self._config.get_verbosity() >= 0:
                terminalreporter.write_line(printable(visible(line)), **markup)

    def _try(self, name: str, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:
            text = f"plan report: {name} could not be written: {describe(error)}"
            self._lines.append((text, {"red": True}))
        else:
            self._lines.append((f"plan report: {name}", {}))


def _ending(path: Path) -> str:
    # Longer endings come first: `x.trace.json` is not a `.json` report.
    return next(ending for ending in REPORT_ENDINGS if path.name.endswith(ending))


def _problem(path: Path) -> str | None:
    """Return why the file cannot be written, or None if it can."""
    if path.is_dir():
        return "it is a directory"
    if path.exists():
        return None if os.access(path, os.W_OK) else "permission denied"
    folder = next(parent for parent in path.parents if parent.exists())
    if not folder.is_dir():
        return f"{folder} is not a directory"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"no permission to write to {folder}"


def _write_report(path: Path, account: Account) -> None:
    _write(path, _FORMATS[_ending(path)](account, path))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _add_summary(path: Path, account: Account) -> None:
    """Append the report to the job summary, which GitHub refuses as a whole if it is too long.

    Raises:
        PlanError: other commands of the same job step have left no room.
    """
    size = path.stat().st_size if path.exists() else 0
    room = markdown.MOST_BYTES - size
    if room < _LEAST_ROOM:
        most = f"{markdown.MOST_BYTES:,} bytes"
        raise PlanError(f"it already has {size:,} bytes, and GitHub refuses more than {most}")
    _append(path, markdown.text(account, room))


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
