"""Internals of pytest by which it runs, counts and reports tests, each with a fallback."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
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


def tear_down_fixtures(session: pytest.Session, mask: Callable[[str], str]) -> None:
    """Tear down the fixtures that are still set up, and report an error in one of them.

    After an interruption, pytest does this only when the session finishes. If this version of
    pytest works in another way, that is still what happens.

    Args:
        session: the session.
        mask: a function that masks the secrets in a text.

    Raises:
        KeyboardInterrupt: a fixture raised it.
        pytest.exit.Exception: a fixture called `pytest.exit`.
    """
    state: Any = getattr(session, "_setupstate", None)
    nodes = list(getattr(state, "stack", ()))
    if not nodes or not hasattr(state, "teardown_exact"):
        return
    with catch_warnings(session.config, mask):
        call = pytest.CallInfo.from_call(
            lambda: state.teardown_exact(None),
            "teardown",
            reraise=(KeyboardInterrupt, pytest.exit.Exception),
        )
    if call.excinfo is not None:
        report = _teardown_error(nodes[-1], call)
        session.config.hook.pytest_runtest_logreport(report=report)


def _teardown_error(node: Any, call: pytest.CallInfo[Any]) -> pytest.TestReport:
    return pytest.TestReport(
        node.nodeid,
        getattr(node, "location", (node.nodeid, None, node.name)),
        {},
        "failed",
        node.repr_failure(call.excinfo),
        "teardown",
        duration=call.duration,
        start=call.start,
        stop=call.stop,
    )


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
