"""The pytest plugin: the hooks that pytest calls in every run.

These hooks are cheap. They import code that works with steps only when they find the first step,
and no module of this package before they bypass pytest's search for asserts (`plain_imports`).
PYTEST_DONT_REWRITE (there are no asserts here that pytest should rewrite)
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_plan.plugin.compat import plain_imports

if TYPE_CHECKING:
    from pytest_plan.plugin.interface.options import Settings

# The options that do something else instead of running tests, and what implements them.
_COMMANDS = {
    "up": "environments.up.Up",
    "down": "environments.down.Down",
    "status": "environments.status.Status",
    "print_logs": "environments.logs.PrintLogs",
    "history": "history.ShowHistory",
    "init": "init.Init",
    "doctor": "doctor.doctor.Doctor",
    "forget": "environments.forget.Forget",
    "cleanup": "environments.cleanup.Cleaner",
}
# What implements them with --plan-share, if it is something else.
_SHARED_COMMANDS = {
    "up": "environments.shared.up.SharedUp",
    "down": "environments.shared.down.SharedDown",
    "status": "environments.shared.status.SharedStatus",
    "print_logs": "environments.shared.logs.PrintSharedLogs",
}


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the hooks that plugins and conftests can implement; pytest calls this hook first."""
    plain_imports.begin()
    from pytest_plan.plugin.interface import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the command line options and ini values."""
    from pytest_plan.plugin.interface import options

    options.add(parser)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    """Let a command such as `--plan-cleanup` continue if a conftest cannot be loaded."""
    from pytest_plan.plugin.session import lookup

    lookup.remember_process(early_config)
    options = early_config.known_args_namespace
    is_command = _is_command(options)
    if is_command:
        from pytest_plan.plugin.commands import command

        command.begin(early_config)
    if not is_command or options.plan_up:
        try:
            return (yield)
        except Exception as error:  # pytest-cov does not handle those of coverage.py
            from pytest_plan.plugin.compat import coverage_internals

            if coverage_internals.is_of_coverage(error):
                raise pytest.UsageError(f"coverage cannot be measured: {error}") from error
            raise
    return (yield from command.ignore_broken_conftests(early_config))


def _is_command(options: object) -> bool:
    return any(getattr(options, f"plan_{name}", None) for name in _COMMANDS)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """With a command, keep other plugins from preparing to run tests."""
    if _is_command(config.option):
        from pytest_plan.plugin.commands import command

        command.prepare(config)


@pytest.hookimpl(specname="pytest_cmdline_main", wrapper=True)
def pytest_cmdline_main_refused() -> Generator[None, object, object]:
    """Escape the control characters in the text of a usage error, which may name any file."""
    try:
        return (yield)
    except pytest.UsageError as error:
        from pytest_plan.engine.model.text import visible

        error.args = tuple(visible(str(text)) for text in error.args)
        raise


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the options and start looking for steps."""
    config.add_cleanup(plain_imports.end)
    if config.pluginmanager.is_blocked("pytest_plan"):
        # `-p pytest_plan -p no:pytest_plan`: pytest has unregistered the package but not this
        # module, which the package names in `pytest_plugins`.
        config.pluginmanager.unregister(name="pytest_plan.plugin")
        return
    from pytest_plan.plugin.interface import options
    from pytest_plan.plugin.session import discovery

    if "PYTEST_PLAN_KEY" in os.environ:
        from pytest_plan.plugin.run import launch

        launch.take_key(config)

    config.addinivalue_line(
        "markers",
        "plan_step(...): declare a function, generator function or Step class in a conftest.py or "
        "plugin as a step of the plan",
    )
    config.addinivalue_line(
        "markers",
        "plan(*steps): run the test only after these steps have succeeded; without names, after "
        "every step visible to it",
    )
    config.addinivalue_line(
        "markers",
        "plan_each(*steps): run the test once with each of these steps; plan_step_name is its name",
    )
    config.addinivalue_line(
        "markers", "plan_alone(reason=...): run no other test at the same time, in any worker"
    )
    settings = options.settings(config)
    if settings.share is not None:
        from pytest_plan.plugin.interface import sharing

        sharing.begin(config, settings)
    discovery.begin(config, settings, _command(config, settings))


def _command(config: pytest.Config, settings: Settings) -> object | None:
    """Return the plugin that implements the command that was given; None if none was."""
    homes = _COMMANDS if settings.share is None else {**_COMMANDS, **_SHARED_COMMANDS}
    for name, home in homes.items():
        if getattr(settings, name):
            module, _, command = home.rpartition(".")
            found = importlib.import_module(f"pytest_plan.plugin.commands.{module}")
            return getattr(found, command)(config, settings)  # type: ignore[no-any-return]
    return None
