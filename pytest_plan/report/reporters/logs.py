"""Shows what the logs of steps have gained during a test to reporters that read no sections.

These are the `--junitxml` file and pytest-json-report.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pytest_plan.plugin.compat.report_internals import JUnitOutput, extend_output
from pytest_plan.plugin.items.logs import logs_in


def pytest_plan_make_listener(config: pytest.Config) -> None:
    """Register what hands the sections on; the run itself has nothing for it."""
    config.pluginmanager.register(LogOutput(config), "pytest_plan_log_output")


class LogOutput:
    """Hands on the sections of each report of a test."""

    def __init__(self, config: pytest.Config) -> None:
        self._junit = JUnitOutput(config)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None]:
        """Hand them on before pytest has finished the case: this is at teardown."""
        logs = logs_in(report)
        if not logs:
            return (yield)
        text = "".join(f"{title:-^80}\n{text}\n" for title, text in logs)
        extend_output(report, text)
        if report.when == "teardown":
            self._junit.add(report, text)
            return (yield)
        result = yield
        self._junit.add(report, text)
        return result
