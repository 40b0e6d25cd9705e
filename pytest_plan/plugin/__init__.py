"""The pytest side: the hooks that every run of pytest sees, and the fixture `plan`.

They are cheap: whatever works with steps is imported when the first step is found, and nothing
of ours before it can be imported plainly.
PYTEST_DONT_REWRITE (nothing here has asserts that pytest should rewrite)
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pytest_plan.plugin.compat import plain_imports


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the hooks that others can implement; pytest calls this one first."""
    plain_imports.begin()
    from pytest_plan.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, each also an ini value."""
    from pytest_plan.plugin import options

    options.add(parser)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    """Let a conftest that is broken keep nobody from cleaning up."""
    if not getattr(early_config.known_args_namespace, "plan_cleanup", None):
        return (yield)
    from pytest_plan.plugin.session import cleanup

    return (yield from cleanup.ignore_broken_conftests())


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Let nobody else prepare a run of tests where there is none."""
    if config.option.plan_cleanup:
        from pytest_plan.plugin.session import cleanup

        cleanup.prepare(config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the options and begin to look for steps."""
    config.add_cleanup(plain_imports.end)
    if config.pluginmanager.is_blocked("pytest_plan"):
        # `-p pytest_plan -p no:pytest_plan`: pytest took back the package, but not this module.
        config.pluginmanager.unregister(name="pytest_plan.plugin")
        return
    from pytest_plan.plugin import options
    from pytest_plan.plugin.session import discovery as discover

    config.addinivalue_line(
        "markers",
        "plan_step(...): the function, generator function or Step class in a conftest.py or "
        "plugin is a step of the plan",
    )
    config.addinivalue_line(
        "markers", "plan(*steps): the test needs these steps; without names, every visible step"
    )
    discover.begin(config, options.settings(config))
