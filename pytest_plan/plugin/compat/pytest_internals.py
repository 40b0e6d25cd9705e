"""Internals of pytest, each with a fallback for a version of pytest that lacks it."""

from __future__ import annotations

import contextlib
import dataclasses
import linecache
import logging
import sys
import types
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


def catch_warnings(
    config: pytest.Config, mask: Callable[[str], str]
) -> contextlib.AbstractContextManager[None]:
    """Return a context in which warnings, on any thread, are handled as those of a test.

    The user's filters apply, and the warnings go to pytest's summary. The context changes nothing
    with `-p no:warnings`, or if this version of pytest lacks the function.

    Args:
        config: the config of this process.
        mask: a function that masks the secrets in the text of a warning.
    """
    plugin: Any = config.pluginmanager.get_plugin("warnings")
    catch = getattr(plugin, "catch_warnings_for_item", None)
    if catch is None:
        return contextlib.nullcontext()
    hook = _MaskingHook(config.hook.pytest_warning_recorded, mask)
    caught: contextlib.AbstractContextManager[None] = catch(config, hook, "runtest", None)
    return caught


class _MaskingHook:
    """The hook `pytest_warning_recorded`, with secrets masked in each warning.

    pytest calls it as an attribute of the object that has all hooks, so this object has itself.
    """

    def __init__(self, hook: Any, mask: Callable[[str], str]) -> None:
        self._hook = hook
        self._mask = mask
        self.pytest_warning_recorded = self

    def call_historic(self, kwargs: dict[str, Any]) -> None:
        """Call the hook, also for plugins that are registered later."""
        self._hook.call_historic(kwargs=self._masked(kwargs))

    def __call__(self, **kwargs: Any) -> Any:
        return self._hook(**self._masked(kwargs))

    def _masked(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        shown = kwargs["warning_message"]
        line = shown.line or linecache.getline(shown.filename, shown.lineno)
        text = str(shown.message)
        if self._mask(text) == text and self._mask(line) == line:
            return kwargs
        masked = warnings.WarningMessage(
            Warning(self._mask(text)),  # its class may take other arguments
            shown.category,
            shown.filename,
            shown.lineno,
            line=self._mask(line).strip(),
        )
        return {**kwargs, "warning_message": masked}


def configure_log(config: pytest.Config, handler: logging.Handler) -> int | None:
    """Set the level and the format that the user has set for captured log records.

    The defaults stay if the user has set nothing, or if this version of pytest works in another
    way.

    Returns:
        The level, or None.
    """
    plugin: Any = config.pluginmanager.get_plugin("logging-plugin")
    level: int | None = getattr(plugin, "log_level", None)
    if level is not None:
        handler.setLevel(level)
    if plugin is not None:
        text, dates = (
            config.getoption(name) or config.getini(name)
            for name in ("log_format", "log_date_format")
        )
        default = getattr(sys.modules[type(plugin).__module__], "DEFAULT_LOG_FORMAT", text)
        if text != default:
            handler.setFormatter(logging.Formatter(text, dates))
    return level


def append_to_log_file(config: pytest.Config) -> None:
    """Let the controller append to the `log_file`, to which its workers write as well.

    Otherwise each process writes at its own position, over the records of the others. If this
    version of pytest works in another way, it still does.
    """
    plugin = config.pluginmanager.get_plugin("logging-plugin")
    handler: Any = getattr(plugin, "log_file_handler", None)
    if getattr(handler, "mode", "") == "w":
        handler.close()
        handler.mode = "a"  # with the next record, the handler opens the file again


def has_live_logs(config: pytest.Config) -> bool:
    """Return whether pytest shows log records as they come (`log_cli`)."""
    if config.pluginmanager.get_plugin("logging-plugin") is None:
        return False
    return config.getoption("log_cli_level", None) is not None or bool(config.getini("log_cli"))


@contextlib.contextmanager
def show_live_logs(
    config: pytest.Config,
    heading: Callable[[], str],
    visible: Callable[[], contextlib.AbstractContextManager[None]],
) -> Iterator[None]:
    """Within this context, let pytest show live log records (`log_cli`) of any thread.

    pytest itself suspends capturing for each record on the thread that logs, although another
    thread may be printing or suspending it at that moment. If this version of pytest works in
    another way, nothing changes.

    Args:
        config: the config of this process.
        heading: a function that returns the heading of a record, on the thread that logs it.
        visible: a function that returns a context in which output reaches the terminal.
    """
    plugin = config.pluginmanager.get_plugin("logging-plugin")
    handler: Any = getattr(plugin, "log_cli_handler", None)
    if getattr(handler, "capture_manager", None) is None or not hasattr(handler, "set_when"):
        yield
        return
    writer, manager = config.get_terminal_writer(), handler.capture_manager

    @contextlib.contextmanager
    def on_own_lines() -> Iterator[None]:
        with visible():
            if writer.width_of_current_line:
                writer.line()
            # The handler holds its lock, so that no record of another thread comes in between.
            if (new := heading()) != shown[-1]:
                shown.append(new)
                handler.set_when(new)
            yield

    shown = [heading()]
    handler.set_when(shown[-1])
    handler.capture_manager = types.SimpleNamespace(global_and_fixture_disabled=on_own_lines)
    try:
        yield
    finally:
        handler.capture_manager = manager


def mask_tracebacks(info: pytest.ExceptionInfo[BaseException], mask: Callable[[str], str]) -> None:
    """Mask the secrets in every traceback that is made from `info`, by any plugin.

    If this version of pytest does not allow that, only the message of the exception is masked.
    """
    error: Any = info.value
    error.args = tuple(mask(one) if isinstance(one, str) else one for one in error.args)
    if isinstance(getattr(error, "msg", None), str):
        error.msg = mask(error.msg)
    getrepr = info.getrepr
    with contextlib.suppress(AttributeError):
        info.getrepr = lambda *args, **kwargs: mask_parts(  # type: ignore[method-assign]
            getrepr(*args, **kwargs), mask
        )


def mask_parts(shown: Any, mask: Callable[[str], str]) -> Any:
    """Mask the texts in a traceback that pytest has formatted, and return the traceback."""
    if isinstance(shown, str):
        return mask(shown)
    if isinstance(shown, (list, tuple)):
        return type(shown)(mask_parts(one, mask) for one in shown)
    if dataclasses.is_dataclass(shown) and not isinstance(shown, type):
        for name, value in vars(shown).items():
            if isinstance(value, (str, list, tuple)) or dataclasses.is_dataclass(value):
                object.__setattr__(shown, name, mask_parts(value, mask))
    return shown


def skip_at_item(reason: str) -> NoReturn:
    """Skip the running test and report the test's location, as a skip mark does.

    If pytest cannot report that location, it reports the location of this function.
    """
    try:
        skipped = pytest.skip.Exception(reason, _use_item_location=True)
    except TypeError:
        skipped = pytest.skip.Exception(reason)
    raise skipped


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
