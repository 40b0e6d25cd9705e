"""Which reports a run loads.

They are loaded by name, because reports import the plugin and not the other way around.
"""

from __future__ import annotations

import importlib

import pytest

from pytest_plan.plugin.interface import ci
from pytest_plan.plugin.interface.options import Settings


def load_reports(config: pytest.Config, settings: Settings) -> None:
    """Register the reports that are needed before a run begins."""
    if settings.show or config.option.setupplan:
        _load(config, "terminal.show")
    if settings.report:
        _load(config, "files")


def load_listeners(config: pytest.Config, settings: Settings) -> None:
    """Register the reports that listen to a run."""
    _load(config, "terminal.live")
    if settings.follow or config.getoption("capture", None) == "no":
        _load(config, "terminal.follow")
    _load(config, "reporters.test_reports")
    _load_for_ci(config, settings)
    _load(config, "otel")
    has_junit = bool(config.getoption("xmlpath", None))
    if has_junit:
        _load(config, "reporters.junit")
    has_json = bool(config.getoption("json_report", None))
    if settings.logs != "never" and (has_junit or has_json):
        _load(config, "reporters.logs")


def _load_for_ci(config: pytest.Config, settings: Settings) -> None:
    system, wanted = settings.ci, settings.github_summary
    if wanted or (wanted is None and system == ci.GITHUB):
        _load(config, "files")
    if system is not None:
        _load(config, f"reporters.{system}")


def _load(config: pytest.Config, report: str) -> None:
    # pytest's own `import_plugin` would warn about modules that were imported without being
    # rewritten.
    name = f"pytest_plan.report.{report}"
    if not config.pluginmanager.has_plugin(name):
        config.pluginmanager.register(importlib.import_module(name), name)
