"""Records how this run of pytest was started, so that another process can clean up after it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.environments.reaper import module_argv
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.model.secret import KEY_VARIABLE
from pytest_plan.plugin.interface.options import DEFAULT_ENVIRONMENT

_OPTIONS = "PYTEST_ADDOPTS"
_BY_REAPER = "PYTEST_PLAN_BY_REAPER"
_ROOT = "PYTEST_PLAN_ROOT"
_KEY: pytest.StashKey[Key] = pytest.StashKey()


def describe(config: pytest.Config, conftests: list[str]) -> dict[str, Any]:
    """Return the facts about this run that its journal records.

    Args:
        config: the config of this run.
        conftests: the conftests that declare its steps, relative to rootdir.
    """
    return {
        "python": sys.executable,
        "cwd": os.getcwd(),
        "root": str(config.rootpath),
        "ini": None if config.inipath is None else str(config.inipath),
        "plugins": list(config.option.plugins or ()),
        "overrides": list(config.option.override_ini or ()),
        "import_mode": str(config.getoption("importmode")),
        "path": [part for part in sys.path if part],
        "conftests": conftests,
    }


def command(launch: Mapping[str, Any], plan_dir: Path) -> list[str]:
    """Return the command line that cleans up after the run that `launch` describes."""
    argv = module_argv(launch["python"], launch["path"], "pytest", "--plan-cleanup")
    # pytest expands variables in this option, but not in the value of a variable.
    argv.append(f"--rootdir=${_ROOT}")
    if launch["ini"] is not None:
        argv += ["-c", launch["ini"]]
    for plugin in launch["plugins"]:
        argv += ["-p", plugin]
    for override in (*launch["overrides"], "addopts=", f"plan_dir={plan_dir}"):
        argv += ["-o", override]
    return [*argv, f"--import-mode={launch['import_mode']}", "-p", "no:cacheprovider"]


def advice(environment: str, *options: str) -> str:
    """Return the command line, as shown to the user, that runs pytest with these options."""
    is_default = environment == DEFAULT_ENVIRONMENT
    return " ".join(
        ["pytest", *options, *(() if is_default else ("--plan-environment", environment))]
    )


def take_key(config: pytest.Config) -> None:
    """Take PYTEST_PLAN_KEY out of the environment until pytest ends: no program may inherit it.

    Raises:
        pytest.UsageError: the variable contains no key.
    """
    text = os.environ.pop(KEY_VARIABLE)
    config.add_cleanup(lambda: os.environ.__setitem__(KEY_VARIABLE, text))
    try:
        config.stash[_KEY] = Key(text or None)
    except PlanDefinitionError as error:
        raise pytest.UsageError(str(error)) from None


def key_of(config: pytest.Config) -> Key:
    """Return the key with which this process seals journals; it is made when it is first used."""
    return config.stash.setdefault(_KEY, Key())


def environ(launch: Mapping[str, Any], variables: Mapping[str, str], key: Key) -> dict[str, str]:
    """Return the environment for that command if the reaper runs it.

    PYTEST_ADDOPTS does not apply to the command, but is kept for `was_begun_by_reaper`.
    """
    kept = {name: value for name, value in variables.items() if name != _OPTIONS}
    kept[KEY_VARIABLE] = key.hex
    kept[_ROOT] = launch["root"]
    return {**kept, _BY_REAPER: f"={variables[_OPTIONS]}" if _OPTIONS in variables else ""}


def was_begun_by_reaper() -> bool:
    """Return whether the reaper has started this process, whose output nobody reads.

    If it has, give this process the environment variables of the dead run, so that the programs
    that a cleanup starts find the same variables as in that run. A second call returns False.
    """
    os.environ.pop(_ROOT, None)
    options = os.environ.pop(_BY_REAPER, None)
    if options:
        os.environ[_OPTIONS] = options[1:]
    return options is not None
