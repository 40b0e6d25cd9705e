"""Internals of pytest, each with a fallback for a version of pytest that lacks it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import pytest


def load_conftest(config: pytest.Config, file: str) -> None:
    """Load the conftest at `file`, relative to rootdir, as pytest would.

    If this version of pytest lacks the loader, nothing is loaded, and this process does not know
    the conftest's steps.

    Raises:
        pytest.UsageError: the conftest cannot be loaded.
    """
    load = getattr(config.pluginmanager, "_loadconftestmodules", None)
    if load is None:
        return
    try:
        load(
            config.rootpath / file,
            config.getoption("importmode"),
            config.rootpath,
            consider_namespace_packages=config.getini("consider_namespace_packages"),
        )
    except (Exception, SystemExit, pytest.skip.Exception, pytest.fail.Exception) as error:
        text = f"{file}, which defines a needed step, cannot be loaded: {error}"
        raise pytest.UsageError(text) from error


def warn(config: pytest.Config, text: str) -> None:
    """Add a warning to pytest's summary; `-W error` does not turn it into an INTERNALERROR."""
    # Imported here because a controller without steps does not need it.
    from pytest_plan.engine.model.text import visible

    message = warnings.WarningMessage(
        pytest.PytestWarning(visible(text)), pytest.PytestWarning, "pytest-plan", 0
    )
    hook = config.hook.pytest_warning_recorded
    # A historic hook also reaches plugins that are registered later, such as the terminal.
    call = hook.call_historic if hook.is_historic() else lambda kwargs: hook(**kwargs)
    call(kwargs={"warning_message": message, "when": "runtest", "nodeid": "", "location": None})


class _ShownWarnings:
    """Stands in for pytest's hooks, and passes on each warning with its text as it may be shown."""

    def __init__(self, config: pytest.Config, shown: Callable[[str], str]) -> None:
        self._call = config.hook.pytest_warning_recorded.call_historic
        self._shown = shown
        self.pytest_warning_recorded = self

    def call_historic(self, *, kwargs: dict[str, Any]) -> None:
        """Call the hook `pytest_warning_recorded`."""
        warning = kwargs["warning_message"]
        text = str(warning.message)
        if (shown := self._shown(text)) != text:
            warning.message = Warning(shown)  # the category of the warning stays
        self._call(kwargs=kwargs)


def catch_warnings(
    config: pytest.Config, shown: Callable[[str], str]
) -> contextlib.AbstractContextManager[None]:
    """Return a context in which warnings, on any thread, are handled as those of a test.

    The user's filters apply, and the warnings go to pytest's summary. The context changes nothing
    with `-p no:warnings`, or if this version of pytest lacks the function.

    Args:
        config: the config of this process.
        shown: a function that returns the text of a warning as it may be shown.
    """
    plugin: Any = config.pluginmanager.get_plugin("warnings")
    catch = getattr(plugin, "catch_warnings_for_item", None)
    if catch is None:
        return contextlib.nullcontext()
    caught: contextlib.AbstractContextManager[None] = catch(
        config, _ShownWarnings(config, shown), "runtest", None
    )
    return caught


def skip_at_item(reason: str) -> NoReturn:
    """Skip the running test and report the test's location, as a skip mark does.

    If pytest cannot report that location, it reports the location of this function.
    """
    try:
        skipped = pytest.skip.Exception(reason, _use_item_location=True)
    except TypeError:
        skipped = pytest.skip.Exception(reason)
    raise skipped


def fixture_info(item: pytest.Item) -> Any | None:
    """Return the object in which pytest keeps a test's fixtures, or None if there is none.

    The object has the attributes `initialnames` and `name2fixturedefs`. All tests of a parametrized
    function share it. If it is None, the fixtures of the test are unknown, but its marks still
    declare its needs.
    """
    info = getattr(item, "_fixtureinfo", None)
    return info if hasattr(info, "initialnames") and hasattr(info, "name2fixturedefs") else None


def fixture_definitions(config: pytest.Config, name: str) -> list[Any]:
    """Return the definitions of the fixture `name`, or [] if pytest does not provide them.

    Only checks of step names and the wording of error messages depend on this function.
    """
    manager: Any = config.pluginmanager.get_plugin("funcmanage")
    find = getattr(manager, "getfixturedefs", None)
    return [] if find is None else list(find(name, manager.session) or ())


class CapturedStream(NamedTuple):
    """The two streams that pytest's capture manager uses for `sys.stdout` or `sys.stderr`.

    Attributes:
        terminal: the stream to use while capturing is suspended.
        capture: the stream to use while pytest is capturing.
    """

    terminal: Any
    capture: Any


@contextlib.contextmanager
def hold_streams(
    manager: Any, streams: Mapping[str, Any]
) -> Iterator[Mapping[str, CapturedStream]]:
    """Keep `streams` in place while pytest suspends or resumes capturing.

    Args:
        manager: pytest's capture manager.
        streams: the streams to keep as `sys.stdout` and `sys.stderr`; the keys are `stdout` and
            `stderr`.

    Yields:
        The streams that pytest would have used, by name. If pytest handles a stream in another way,
        its name is missing, and afterwards `sys` has pytest's stream instead of the given one.
    """
    owners = {name: owner for name in streams if (owner := _owner(manager, name)) is not None}
    held = {name: CapturedStream(owner._old, owner.tmpfile) for name, owner in owners.items()}
    for name, owner in owners.items():
        owner._old = owner.tmpfile = streams[name]
    try:
        yield held
    finally:
        for name, owner in owners.items():
            owner._old, owner.tmpfile = held[name]


def captured_text(manager: Any) -> str:
    """Return the text that pytest's capture manager has captured since the last call.

    It is empty after pytest has stopped capturing, as it does when it is interrupted.
    """
    if getattr(manager, "_global_capturing", manager) is None:
        return ""
    with contextlib.suppress(AssertionError):
        return "".join(manager.read_global_capture())
    return ""


def _owner(manager: Any, name: str) -> Any | None:
    """Return the object that sets `sys.stdout` or `sys.stderr` for pytest, or None."""
    owner = getattr(getattr(manager, "_global_capturing", None), name.removeprefix("std"), None)
    owner = getattr(owner, "syscapture", owner)
    return owner if hasattr(owner, "_old") and hasattr(owner, "tmpfile") else None
