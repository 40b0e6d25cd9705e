"""Records how this run of pytest was started, so that another process can clean up after it."""

from __future__ import annotations

import itertools
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.definition.options import DEFAULT_HOST, RunOptions
from pytest_plan.engine.environments.reaper import module_argv
from pytest_plan.engine.journal.reader import Recorded
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.model.secret import KEY_VARIABLE
from pytest_plan.engine.processes.addresses import check_name
from pytest_plan.plugin.interface.options import DEFAULT_ENVIRONMENT, Settings

_OPTIONS = "PYTEST_ADDOPTS"
_BY_REAPER = "PYTEST_PLAN_BY_REAPER"
_ROOT = "PYTEST_PLAN_ROOT"
_OF_EDITORS = frozenset({"vscode_pytest"})  # plugins that only the editor can load
_KEY: pytest.StashKey[Key] = pytest.StashKey()


def describe(config: pytest.Config, conftests: list[str], host: str) -> dict[str, Any]:
    """Return the facts about this run that its journal records.

    Args:
        config: the config of this run.
        conftests: the conftests that declare its steps, relative to rootdir.
        host: the address under which tests reach what its steps start.
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
        "host": host,
    }


def check_host(settings: Settings) -> None:
    """Check that the name of a host with which tests are to reach this machine can be used.

    Workers do not check it: they may know it, or not, in another way.

    Raises:
        pytest.UsageError: it cannot; the message names its source.
    """
    if settings.host is not None:
        try:
            check_name(settings.host, settings.sources["host"])
        except PlanDefinitionError as error:
            raise pytest.UsageError(str(error)) from None


def options_of(recorded: Recorded, options: RunOptions) -> RunOptions:
    """Return the options of a plan, with the host for which the recorded steps were provisioned."""
    host = recorded.facts.get("launch", {}).get("host", DEFAULT_HOST)
    return options._replace(host=str(host))


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


def typed(config: pytest.Config, environment: str, *args: str) -> str:
    """Return a command for this project, to be typed in the directory where pytest was started.

    It repeats what the user has typed that decides which project and which `plan_dir` pytest uses.

    Args:
        config: the config of this run.
        environment: the environment that the command is about.
        args: the options of the command.
    """
    if environment != DEFAULT_ENVIRONMENT:
        args = (*args, "--plan-environment", environment)
    overrides = [one for one in config.option.override_ini or () if one.startswith("plan_")]
    settings = [part for one in overrides for part in ("-o", one)]
    return shlex.join(["pytest", *_typed_plugins(config), *_project(config), *settings, *args])


def _typed_plugins(config: pytest.Config) -> list[str]:
    given = [str(arg) for arg in config.invocation_params.args]
    names = [name for option, name in itertools.pairwise(given) if option == "-p"]
    names += [arg[2:] for arg in given if arg.startswith("-p") and arg != "-p"]
    wanted = [name for name in names if not name.startswith("no:") and name not in _OF_EDITORS]
    return [part for name in wanted for part in ("-p", name)]


def _project(config: pytest.Config) -> list[str]:
    """Return the options with which pytest finds the rootdir and the ini file of this run."""
    option, folder = config.option, config.invocation_params.dir
    root, ini = config.rootpath, config.inipath
    found = []
    if option.rootdir or (ini is None and root != folder):
        found.append(f"--rootdir={option.rootdir or os.path.relpath(root, folder)}")
    if option.inifilename or (ini is not None and not folder.is_relative_to(ini.parent)):
        found += ["-c", option.inifilename or os.path.relpath(str(ini), folder)]
    return found


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
