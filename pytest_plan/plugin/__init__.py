"""The pytest side: the hooks that every run of pytest sees, and the fixture `plan`.

They are cheap: whatever works with steps is imported when the first step is found.
PYTEST_DONT_REWRITE (nothing here has asserts that pytest should rewrite)
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pytest_plan.plugin import discover, hookspecs, options, plain_imports
from pytest_plan.plugin.fixtures import plan as plan


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, each also an ini value."""
    options.add(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the hooks that others can implement."""
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    """Let a conftest that is broken keep nobody from cleaning up."""
    if not getattr(early_config.known_args_namespace, "plan_cleanup", None):
        return (yield)
    from pytest_plan.plugin import cleaner

    return (yield from cleaner.whatever_conftests_raise())


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Let nobody else prepare a run of tests where there is none."""
    if config.option.plan_cleanup:
        from pytest_plan.plugin import cleaner

        cleaner.prepare(config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the options and begin to look for steps."""
    if config.pluginmanager.is_blocked("pytest_plan"):
        # `-p pytest_plan -p no:pytest_plan`: pytest took back the package, but not this module.
        config.pluginmanager.unregister(name="pytest_plan.plugin")
        return
    config.addinivalue_line(
        "markers",
        "plan_step(...): the function, generator function or Step class in a conftest.py or "
        "plugin is a step of the plan",
    )
    config.addinivalue_line(
        "markers", "plan(*steps): the test needs these steps; without names, every visible step"
    )
    plain_imports.begin(config)
    discover.begin(config, options.settings(config))


def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> None:
    """Refuse steps in test modules: they would silently never run."""
    discover.refuse_in_test_module(collector, name, obj)
