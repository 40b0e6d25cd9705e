"""Writes the reports that `--plan-report` and `plan_github_summary` ask for."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_plan.engine.model.errors import describe
from pytest_plan.plugin.options import REPORT_ENDINGS
from pytest_plan.plugin.session import lookup
from pytest_plan.report.collect import Collector
from pytest_plan.report.formats import json_file, markdown, mermaid, trace

if TYPE_CHECKING:
    from pytest_plan.report.account import Account

_SUMMARY = "GITHUB_STEP_SUMMARY"


def _html(account: Account) -> str:
    from pytest_plan.report.formats import html  # Jinja2 is an extra

    return html.text(account)


_TEXTS: Mapping[str, Callable[[Account], str]] = {
    ".html": _html,
    ".json": json_file.text,
    ".md": markdown.text,
    ".mmd": mermaid.graph_of,
    ".trace.json": trace.text,
}


def pytest_configure(config: pytest.Config) -> None:
    """Refuse at the start what could not be written at the end."""
    settings = lookup.of(config).settings
    source = settings.sources["report"]
    for path in settings.report:
        if _ending(path) == ".html" and importlib.util.find_spec("jinja2") is None:
            raise pytest.UsageError(
                f"{source} {path}: an HTML report needs Jinja2, which is not installed: "
                "pip install 'pytest-plan[report]'"
            )
        if (problem := _problem(path)) is not None:
            raise pytest.UsageError(f"{source}: {path} cannot be written: {problem}")


def pytest_plan_make_listener(config: pytest.Config) -> Callable[[Any], None]:
    """Collect what the reports need, and write them when the plan is over."""
    writer = ReportFiles(config)
    config.pluginmanager.register(writer, "pytest_plan_report_files")
    collector = Collector(config, writer.write)
    config.pluginmanager.register(collector, "pytest_plan_collector")
    return collector.hear


@pytest.hookimpl(trylast=True)
def pytest_plan_show(config: pytest.Config) -> None:
    """Write the graph, for which nothing has to run."""
    plan = lookup.of(config)
    writer = config.get_terminal_writer()
    for path in plan.settings.report:
        if _ending(path) != ".mmd":
            writer.line(f"{path} was not written: it tells of a run")
            continue
        _write(path, mermaid.graph(list(plan.declared.steps.values())))
        writer.line(f"plan report: {path}")


class ReportFiles:
    """Writes the files of one run and names them in pytest's summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._settings = lookup.of(config).settings
        self._lines: list[tuple[str, dict[str, bool]]] = []

    def write(self, account: Account) -> None:
        """Write each report; one that cannot be written keeps no other from it."""
        for path in self._settings.report:
            self._try(str(path), functools.partial(_write_report, path, account))
        summary = os.environ.get(_SUMMARY)
        if self._settings.github_summary and summary:
            self._try(f"${_SUMMARY}", lambda: _append(Path(summary), markdown.text(account)))

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say where the reports are, below the table of the plan."""
        for line, markup in self._lines:
            if markup or self._config.get_verbosity() >= 0:
                terminalreporter.write_line(line, **markup)

    def _try(self, name: str, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:
            text = f"plan report: {name} could not be written: {describe(error)}"
            self._lines.append((text, {"red": True}))
        else:
            self._lines.append((f"plan report: {name}", {}))


def _ending(path: Path) -> str:
    return next(ending for ending in REPORT_ENDINGS if path.name.endswith(ending))


def _problem(path: Path) -> str | None:
    if path.is_dir():
        return "it is a folder"
    if path.exists():
        return None if os.access(path, os.W_OK) else "there is no permission to write it"
    folder = next(parent for parent in path.parents if parent.exists())
    if not folder.is_dir():
        return f"{folder} is no folder"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"no permission to write in {folder}"


def _write_report(path: Path, account: Account) -> None:
    _write(path, _TEXTS[_ending(path)](account))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
