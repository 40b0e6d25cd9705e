"""Internals by which pytest runs and counts tests, and by which it and plugins report them.

Each has a fallback for a version that works in another way.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest


def with_crash(shown: Any, path: str | None, line: int | None, message: str) -> Any:
    """Set the place and message of a formatted traceback, which summaries show, and return it.

    If this version of pytest keeps them elsewhere, they stay as they are.

    Args:
        shown: what `ExceptionInfo.getrepr` has returned.
        path: the absolute path of a file; None means that of the last frame.
        line: the line, counted from 1; None means that of the last frame.
        message: the type and message of the exception.
    """
    crash: Any = getattr(shown, "reprcrash", None)
    if not dataclasses.is_dataclass(crash):
        return shown
    place = {} if path is None else {"path": path, "lineno": line}
    shown.reprcrash = dataclasses.replace(crash, message=message, **place)  # type: ignore[type-var]
    if chain := getattr(shown, "chain", None):
        shown.chain = [*chain[:-1], (chain[-1][0], shown.reprcrash, *chain[-1][2:])]
    return shown


def run_once(item: pytest.Item, nextitem: pytest.Item | None) -> object | None:
    """Run a test as pytest does without other plugins, and return what its hook returns.

    Return None, which lets other plugins run the test, if this version of pytest runs tests in
    another way.
    """
    runner = item.config.pluginmanager.get_plugin("runner")
    protocol = getattr(runner, "pytest_runtest_protocol", None)
    return None if protocol is None else protocol(item=item, nextitem=nextitem)


def keep_from_repeating(item: pytest.Item) -> None:
    """Keep plugins from repeating a test that has failed.

    These are pytest-rerunfailures, pytest-retry and flaky. If a version of such a plugin works in
    another way, it repeats the test.
    """
    if any(line.startswith("flaky") for line in item.config.getini("markers")):
        item.add_marker(pytest.mark.flaky(condition=False), append=False)
    if hasattr(item, "_terminal_errors"):
        item._terminal_errors = dict.fromkeys(("setup", "call", "teardown"), True)
    if hasattr(item, "_flaky_max_runs"):
        item._flaky_max_runs = 0


def outcomes() -> Callable[[pytest.Item, pytest.CallInfo[None], pytest.TestReport], str]:
    """Return a function that returns the outcome that pytest will give to the report of a test.

    Until pytest has considered the mark `xfail`, a report says `failed` for an expected failure,
    and `passed` for a test that should have failed. If this version of pytest works in another way,
    the outcome is what the report says.
    """
    try:
        from _pytest.skipping import pytest_runtest_makereport as consider
        from _pytest.skipping import xfailed_key as key
    except ImportError:
        return lambda item, call, report: report.outcome

    def outcome(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> str:
        may_change = item.stash.get(key, None) is not None or (
            call.excinfo is not None and isinstance(call.excinfo.value, pytest.xfail.Exception)
        )
        if not may_change:
            return report.outcome
        trial: Any = copy.copy(report)
        with contextlib.suppress(StopIteration, AttributeError, TypeError):
            considering: Any = consider(item, call)
            next(considering)
            considering.send(trial)
        return str(trial.outcome)

    return outcome


def uncount_failure(config: pytest.Config) -> None:
    """Take one from the failures that pytest, and xdist in the controller, have counted.

    If either counts them elsewhere, its count stays as it is.
    """
    for plugin, counter in (("session", "testsfailed"), ("dsession", "countfailures")):
        session = config.pluginmanager.get_plugin(plugin)
        if isinstance(getattr(session, counter, None), int):
            setattr(session, counter, getattr(session, counter) - 1)


def add_suite_properties(config: pytest.Config, properties: Iterable[tuple[str, str]]) -> None:
    """Add properties to the suite of the `--junitxml` file, if pytest will write one."""
    with contextlib.suppress(ImportError):
        from _pytest.junitxml import xml_key

        xml = config.stash.get(xml_key, None)
        if xml is not None:
            for name, value in properties:
                xml.add_global_property(name, value)


def end_progress(config: pytest.Config) -> None:
    """Let pytest write its final `[100%]` now, on the line of the last tests.

    Some versions of pytest write it only after the test loop, and would write it below the lines
    about the cleanup. In other versions nothing happens.
    """
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    if (
        hasattr(reporter, "pytest_runtestloop")
        and config.get_verbosity(pytest.Config.VERBOSITY_TEST_CASES) <= 0
        and getattr(reporter, "_show_progress_info", False)
        and getattr(reporter, "reported_progress", 0)
    ):
        reporter._write_progress_information_filling_space()
        reporter._show_progress_info = False


def add_output(report: pytest.TestReport, text: str) -> None:
    """Let pytest-json-report, which reads no sections of a report, find captured output."""
    report._json_report_extra = {report.when: {"stdout": text}}  # type: ignore[attr-defined]


def leave_progress_line(config: pytest.Config) -> bool:
    """Return whether the last line on the terminal has no end; let pytest continue below it.

    Any thread can call this. If this version of pytest works in another way, return False.
    """
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    writer: Any = getattr(reporter, "_tw", None)
    if not getattr(writer, "_current_line", ""):
        return False
    writer._current_line = ""
    return True


def extend_output(report: pytest.TestReport, text: str) -> None:
    """Let pytest-json-report find more captured output in the report of a test."""
    stages: Any = getattr(report, "_json_report_extra", None)
    with contextlib.suppress(AttributeError, TypeError):
        stage = stages.setdefault(report.when, {}) if stages is not None else {}
        stage["stdout"] = stage.get("stdout", "") + text


def tell_junit(config: pytest.Config, report: pytest.TestReport) -> tuple[str, ...]:
    """Hand a report to what writes the `--junitxml` file, without its properties.

    CI systems check the file with a schema that has no properties in a test case. Return the name
    of the plugin that now has the report. Return nothing if no file is written, or if this version
    of pytest writes it in another way: its plugin must then get the report as others do.
    """
    xml: Any = None
    with contextlib.suppress(ImportError):
        from _pytest.junitxml import xml_key

        xml = config.stash.get(xml_key, None)
    name = None if xml is None else config.pluginmanager.get_name(xml)
    if name is None:
        return ()
    bare = copy.copy(report)
    bare.user_properties = []
    xml.pytest_runtest_logreport(report=bare)
    return (name,)


class JUnitOutput:
    """Adds output to the cases of the `--junitxml` file, if pytest will write one.

    If this version of pytest writes the file in another way, nothing is added.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._xml: Any = None
        with contextlib.suppress(ImportError):
            from _pytest.junitxml import xml_key

            self._xml = config.stash.get(xml_key, None)

    def add(self, report: pytest.TestReport, text: str) -> None:
        """Add output to the case of a report, unless it passed and the user wants none of those.

        It is in the element `system-out`, with what pytest will write there as well.
        """
        xml = self._xml
        if xml is None or (report.passed and (xml.logging == "no" or not xml.log_passing_tests)):
            return
        # pytest itself writes sections of captured output of some reports.
        is_written = report.when == "teardown" or (
            report.when == "call" and not xml.log_passing_tests
        )
        if is_written and xml.logging in ("system-out", "out-err", "all"):
            return
        with contextlib.suppress(AttributeError, TypeError):
            case = xml.node_reporter(report)
            case._write_content(report, text, "system-out")
            ours, append = case.nodes[-1], case.append

            def append_or_join(node: Any) -> None:
                if node.tag == ours.tag:
                    ours.text += node.text or ""
                else:
                    append(node)

            case.append = append_or_join


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


def attach_to_allure(config: pytest.Config, name: str, text: str) -> None:
    """Attach a text to the running test in the results of allure-pytest, if it attaches output."""
    if config.pluginmanager.has_plugin("allure_listener") and config.option.attach_capture:
        with contextlib.suppress(ImportError, AttributeError, TypeError):
            allure = importlib.import_module("allure")
            allure.attach(text, name=name, attachment_type=allure.attachment_type.TEXT)


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
