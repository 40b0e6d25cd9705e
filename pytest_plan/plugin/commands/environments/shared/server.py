"""The server of shared environments, as commands use it: they look, and are no members."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from pytest_plan.plugin.interface import sharing
from pytest_plan.plugin.interface.options import DEFAULT_ENVIRONMENT, Settings
from pytest_plan.plugin.run import launch
from pytest_plan.sharing.errors import ShareError
from pytest_plan.sharing.model import Access, Status, View
from pytest_plan.sharing.protocol import Store
from pytest_plan.sharing.urls import open_store


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Store]:
    """Open the store that the options name.

    Raises:
        pytest.UsageError: it cannot be used, or it does not answer any more.
    """
    assert settings.share is not None
    try:
        store = open_store(settings.share, settings.dir)
        try:
            yield store
        finally:
            store.shut()
    except ShareError as error:
        raise pytest.UsageError(str(error)) from None


def living(store: Store, name: str) -> View | None:
    """Return an environment; None if there is none, or it was cleaned up."""
    view = store.view(name)
    return None if view is None or view.status is Status.DONE else view


def as_reader(view: View) -> Access:
    """Return the credentials with which everybody can read the rows of an environment."""
    return Access(view.environment, "")


def place(settings: Settings, store: Store) -> str:
    """Return where the environments of a store are, as text for messages."""
    is_local = settings.share == sharing.LOCAL
    return "on this machine" if is_local else f"on {store.server}"


def typed(config: pytest.Config, settings: Settings, *args: str) -> str:
    """Return a command for the same shared environment, as it can be typed in the same shell.

    A URL that may contain a password is not shown.
    """
    assert settings.share is not None
    if settings.sources["share"].startswith("--"):
        is_local = settings.share == sharing.LOCAL
        args = ("--plan-share", sharing.LOCAL if is_local else "URL", *args)
    environment = settings.environment or DEFAULT_ENVIRONMENT
    return launch.typed(config, environment, *args)
