"""Parts of pytest without a public API. Each has a fallback for a pytest that lacks it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import pytest


def load_conftest(config: pytest.Config, file: str) -> None:
    """Load the conftest at `file`, relative to rootdir, as pytest would.

    Without pytest's loader nothing is loaded, and the steps of that conftest are unknown here.

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
    except Exception as error:
        text = f"{file}, which defines a needed step, cannot be loaded: {error}"
        raise pytest.UsageError(text) from error


def warn(config: pytest.Config, text: str) -> None:
    """Add a warning to pytest's summary; `-W error` does not turn it into an INTERNALERROR."""
    message = warnings.WarningMessage(
        pytest.PytestWarning(text), pytest.PytestWarning, "pytest-plan", 0
    )
    hook = config.hook.pytest_warning_recorded
    # A historic hook also reaches plugins that are registered later, such as the terminal.
    call = hook.call_historic if hook.is_historic() else lambda kwargs: hook(**kwargs)
    call(kwargs={"warning_message": message, "when": "runtest", "nodeid": "", "location": None})


def skip_at_item(reason: str) -> NoReturn:
    """Skip the running test and report the location of the test, as for a skip mark.

    If pytest cannot do that, the location of this function is reported.
    """
    try:
        skipped = pytest.skip.Exception(reason, _use_item_location=True)
    except TypeError:
        skipped = pytest.skip.Exception(reason)
    raise skipped


def fixture_info(item: pytest.Item) -> Any | None:
    """Return pytest's object with a test's fixtures: `initialnames` and `name2fixturedefs`.

    Tests of one parametrized function share this object. None means that the fixtures of the test
    are unknown. Its marks still declare its needs.
    """
    info = getattr(item, "_fixtureinfo", None)
    return info if hasattr(info, "initialnames") and hasattr(info, "name2fixturedefs") else None


def fixture_definitions(config: pytest.Config, name: str) -> list[Any]:
    """Return the definitions of the fixture `name`; empty if pytest cannot be asked.

    Only the wording of error messages depends on it.
    """
    manager: Any = config.pluginmanager.get_plugin("funcmanage")
    find = getattr(manager, "getfixturedefs", None)
    return [] if find is None else list(find(name, manager.session) or ())


class CapturedStream(NamedTuple):
    """The two streams that pytest's capture manager uses for `sys.stdout` or `sys.stderr`.

    Attributes:
        terminal: the stream while capturing is suspended.
        capture: the stream while pytest captures.
    """

    terminal: Any
    capture: Any


@contextlib.contextmanager
def hold_streams(
    manager: Any, streams: Mapping[str, Any]
) -> Iterator[Mapping[str, CapturedStream]]:
    """Context manager that keeps `streams` in place while pytest suspends or resumes capturing.

    Args:
        manager: pytest's capture manager.
        streams: the streams to keep in `sys.stdout` and `sys.stderr`, by the names `stdout` and
            `stderr`.

    Yields:
        The streams that pytest would have used, by name. If pytest handles one of them in another
        way, its name is missing, and `sys` has pytest's stream afterwards.
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


def _owner(manager: Any, name: str) -> Any | None:
    """Return the object that sets `sys.stdout` or `sys.stderr` for pytest, None without one."""
    owner = getattr(getattr(manager, "_global_capturing", None), name.removeprefix("std"), None)
    owner = getattr(owner, "syscapture", owner)
    return owner if hasattr(owner, "_old") and hasattr(owner, "tmpfile") else None
