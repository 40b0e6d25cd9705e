"""Internals of plugins that write reports, for what they do not read in a `TestReport`."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import pytest


def add_output(report: pytest.TestReport, text: str) -> None:
    """Let pytest-json-report, which reads no sections of a report, find captured output."""
    report._json_report_extra = {report.when: {"stdout": text}}  # type: ignore[attr-defined]


def expect_teardown(config: pytest.Config) -> None:
    """Let pytest-sugar, which counts each report at teardown as a test, expect one more."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if isinstance(getattr(reporter, "tests_count", None), int):
        reporter.tests_count += 1  # type: ignore[union-attr]


def tell_allure(config: pytest.Config, report: pytest.TestReport) -> None:
    """Add the report of a failed step to the results of allure-pytest, which reads only items.

    Do nothing if allure-pytest writes no results, or if this version of it works in another way.
    """
    if not config.pluginmanager.has_plugin("allure_listener"):
        return
    with contextlib.suppress(ImportError, AttributeError, TypeError):
        core = importlib.import_module("allure_commons._core")
        core.plugin_manager.hook.report_result(result=_allure_result(core, report))


def _allure_result(core: Any, report: pytest.TestReport) -> Any:
    import uuid  # slow to import

    model = importlib.import_module("allure_commons.model2")
    utils = importlib.import_module("allure_commons.utils")
    labels = {"suite": "plan", "framework": "pytest", "language": utils.platform_label()}
    name = report.location[2]
    return model.TestResult(
        uuid=str(uuid.uuid4()),
        name=name if report.when == "setup" else f"cleanup of {name}",
        fullName=report.nodeid,
        testCaseId=utils.md5(report.nodeid),
        historyId=utils.md5(report.nodeid, report.when),
        status=model.Status.BROKEN,
        statusDetails=model.StatusDetails(
            message=report.longrepr.reprcrash.message,  # type: ignore[union-attr]
            trace=report.longreprtext,
        ),
        start=int(report.start * 1000),
        stop=int(report.stop * 1000),
        labels=[model.Label(name=name, value=value) for name, value in labels.items()],
        attachments=[
            _attached(core, model, str(uuid.uuid4()), *section) for section in report.sections
        ],
    )


def _attached(core: Any, model: Any, name: str, title: str, text: str) -> Any:
    file = model.ATTACHMENT_PATTERN.format(prefix=name, ext="txt")
    core.plugin_manager.hook.report_attached_data(body=text, file_name=file)
    return model.Attachment(name=title, source=file, type="text/plain")
