"""Conftests that pytest has not loaded by itself in this process, but whose steps are needed."""

from __future__ import annotations

import pytest


def load(config: pytest.Config, file: str) -> None:
    """Load the conftest at `file`, relative to rootdir, as pytest would.

    Raises:
        pytest.UsageError: it cannot be loaded.
    """
    # Not public; without it a step of such a conftest is unknown here, and said to be.
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
        text = f"{file}, where a needed step is, cannot be loaded: {error}"
        raise pytest.UsageError(text) from error
