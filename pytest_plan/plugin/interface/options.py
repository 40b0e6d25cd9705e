"""Defines the options, and reads them from the command line, environment variables or ini file."""

# Annotations are not postponed: a NamedTuple would compile each of them.
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.plugin.interface import ci
from pytest_plan.plugin.interface.known_options import OPTIONS, Option
from pytest_plan.plugin.interface.values import READERS, Kind

DEFAULT_ENVIRONMENT = "default"  # the environment to keep or reuse if no name is given


_LISTS = (Kind.NAMES, Kind.REPORTS)
_COMMANDS = (
    "show",
    "up",
    "down",
    "print_logs",
    "cleanup",
    "forget",
    "status",
    "history",
    "init",
    "doctor",
)
_COLLECTING = ("show", "up")  # commands that collect tests, so that no error can be ignored


class Settings(NamedTuple):
    """The options of this run, validated.

    Attributes:
        show: whether to print the plan and run nothing.
        limit: the maximum time for provisioning and tests, in seconds; None means no limit.
        cleanup_limit: the maximum time for cleanup, in seconds; None means the engine's default.
        host: the address under which tests reach what steps start; None means the engine's default.
        jobs: the maximum number of steps to run in parallel; None means the engine's default.
        continue_on_error: whether to continue with everything that does not need a failed step.
        overlap: whether tests may begin before all steps have ended, if there are workers.
        until: the step to run, together with the steps it needs; None means all steps that tests
            need.
        skip: the steps to skip.
        keep: when to keep the environment; None means `always` if `reuse` is true, otherwise
            `never`.
        reuse: whether to reuse a kept environment.
        cleanup: whether to clean up the environments of earlier runs and run nothing.
        up: whether to provision and keep what the selected tests need, and run no tests.
        until_unused: how long an environment that is up stays without being used, in seconds; None
            means no limit.
        export: whether to print the variables that steps have set as shell commands.
        down: whether to clean up one environment and run nothing.
        print_logs: the steps of earlier runs whose logs to print; if there are any, run nothing.
        forget: the steps of earlier runs whose records to remove; if there are any, run nothing.
        status: whether to show the environments of this project and run nothing.
        init: whether to write an example and run nothing.
        doctor: whether to check the setup and run nothing.
        json: whether to show the environments as JSON.
        environment: the name of the environment; None if no name was given.
        wait: the maximum time to wait while another process uses the environment, in seconds; 0
            means not to wait.
        share: the URL of the store of shared environments; None means that this run shares none.
            It may contain a password.
        share_steps: the steps to provision in a shared environment, together with the steps they
            need; empty means all.
        share_runs: the number of runs for which a shared environment waits; None means what the CI
            system says.
        share_wait: the maximum time for which a shared environment stays for other runs, in
            seconds; None means no limit.
        share_lease: how long a run that does not answer is taken to be alive, in seconds.
        reaper: whether to start the reaper.
        report: the report files to write, each ending in one of `REPORT_ENDINGS`.
        ci: the CI system that runs pytest, see `ci.system`, if the output is to be made for it.
        github_summary: whether to add the report to the job summary of GitHub Actions; None means
            in GitHub Actions, if there are steps.
        logs: when the report of a test shows the logs of steps: `never`, `failed` or `always`.
        follow: the steps whose logs to print as they grow.
        pause_on_failure: whether to wait for Enter after a failed step.
        history: whether to show how the last runs of each step went and run nothing.
        record_history: whether to record how the steps of this run went.
        dir: the folder for journals and artifacts.
        autouse: whether every test needs every step.
        eager: whether every step of the initial conftests is eager.
        signals: whether to handle SIGINT, SIGTERM and SIGHUP.
        sources: the source of each option's value, for error messages, by option name.
    """

    show: bool
    limit: float | None
    cleanup_limit: float | None
    host: str | None
    jobs: int | None
    continue_on_error: bool
    overlap: bool
    until: str | None
    skip: tuple[str, ...]
    keep: str | None
    reuse: bool
    cleanup: bool
    up: bool
    until_unused: float | None
    export: bool
    down: bool
    print_logs: tuple[str, ...]
    forget: tuple[str, ...]
    status: bool
    init: bool
    doctor: bool
    json: bool
    environment: str | None
    wait: float
    share: str | None
    share_steps: tuple[str, ...]
    share_runs: int | None
    share_wait: float | None
    share_lease: float
    reaper: bool
    report: tuple[Path, ...]
    ci: str | None
    github_summary: bool | None
    logs: str
    follow: tuple[str, ...]
    pause_on_failure: bool
    history: bool
    record_history: bool
    dir: Path
    autouse: bool
    eager: bool
    signals: bool
    sources: Mapping[str, str]

    @property
    def is_command(self) -> bool:
        """Whether this process does something else instead of collecting and running tests."""
        return any(getattr(self, name) for name in _COMMANDS if name not in _COLLECTING)

    @property
    def may_begin_fresh(self) -> bool:
        """Whether a private environment serves if the kept one was not written by this user."""
        return self.reuse and not self.up

    @property
    def keeps(self) -> str:
        """When to keep the environment: `never`, `failed` or `always`."""
        return self.keep or ("always" if self.reuse else "never")

    @property
    def environment_name(self) -> str | None:
        """The name of the environment; None if only this run uses the environment."""
        is_named = self.reuse or self.keeps != "never"
        return self.environment or (DEFAULT_ENVIRONMENT if is_named else None)


def add(parser: pytest.Parser) -> None:
    """Add the options to pytest's parser."""
    group = parser.getgroup("plan", "pytest-plan: staged test environments")
    for option in OPTIONS:
        if option.in_command_line:
            group.addoption(option.flag, **_argument(option))
        if not option.is_command:
            _addini(parser, option)


def _argument(option: Option) -> dict[str, Any]:
    common = {"dest": option.dest, "default": None, "help": option.help}
    if option.kind is Kind.FLAG:
        return {**common, "action": "store_true"}
    action = "append" if option.kind in _LISTS else "store"
    return {**common, "action": action, "metavar": option.metavar}


def _addini(parser: pytest.Parser, option: Option) -> None:
    if option.kind is Kind.FLAG:
        parser.addini(option.dest, option.help, type="bool", default=None)
        return
    if option.kind in _LISTS:
        parser.addini(option.dest, option.help, type="args", default=None)
        return
    try:
        # In native TOML (pytest 9.2), the value of `plan_limit = 300` is a number.
        parser.addini(option.dest, option.help, type=str | int | float, default=None)
    except (AssertionError, TypeError, ValueError):
        parser.addini(option.dest, option.help, default=None)


def settings(config: pytest.Config) -> Settings:
    """Return this run's settings, from the command line, else the environment, else the ini file.

    Raises:
        pytest.UsageError: a value is invalid; the message names its source.
    """
    found = {option.name: _find(option, config) for option in OPTIONS}
    values = {option.name: _read(option, *found[option.name]) for option in OPTIONS}
    _check_together(values, found)
    folder = Path(values["dir"] or ".pytest_plan")
    return Settings(
        **{
            **values,
            "limit": values["limit"] or None,
            "skip": values["skip"] or (),
            "forget": values["forget"] or (),
            "print_logs": values["print_logs"] or (),
            "logs": values["logs"] or "failed",
            "follow": values["follow"] or (),
            "wait": values["wait"] or 0.0,
            "share_steps": values["share_steps"] or (),
            "share_lease": values["share_lease"] or 60.0,
            "report": _report_files(config, values["report"] or (), found["report"][1]),
            "dir": config.rootpath / folder,
            "sources": {name: source for name, (_, source) in found.items()},
            **{
                option.name: bool(values[option.name])
                for option in OPTIONS
                if option.kind is Kind.FLAG
            },
            **({"reuse": True, "keep": "always"} if _keeps_what_is_up(values) else {}),
            "signals": values["signals"] is not False,
            "reaper": values["reaper"] is not False,
            "record_history": values["record_history"] is not False,
            "ci": None if values["ci"] is False else ci.system(),
            "github_summary": values["github_summary"],
        }
    )


def _check_together(values: Mapping[str, Any], found: Mapping[str, tuple[Any, str]]) -> None:
    commands = [name for name in _COMMANDS if values[name]]
    if len(commands) > 1:
        flags = " and ".join(found[name][1] for name in commands)
        raise pytest.UsageError(f"{flags} cannot be used together")
    if values["json"] and not values["status"]:
        raise pytest.UsageError("--plan-json can only be used with --plan-status")
    if values["export"] and not values["up"]:
        raise pytest.UsageError("--plan-export can only be used with --plan-up")
    if values["until_unused"] is not None and not (values["up"] and values["share"]):
        raise pytest.UsageError(
            "--plan-until-unused can only be used with --plan-up and --plan-share"
        )
    for one, flag in (("forget", "--plan-forget"), ("print_logs", "--plan-logs")):
        if found[one][0] is not None and not values[one]:
            raise pytest.UsageError(f"{flag}: the name of a step is missing")
    if found["share"][1] == "--plan-share" and values["share"] is None:
        raise pytest.UsageError(
            "--plan-share is empty: give it 'local' or the URL of a server, such as redis://host:6379"
        )
    is_never_kept = values["keep"] != "always" and found["keep"][1] == "--plan-keep"
    if _keeps_what_is_up(values) and is_never_kept:
        raise pytest.UsageError(
            f"--plan-up keeps what it provisions, so --plan-keep {values['keep']} cannot be used "
            "with it; to clean up: pytest --plan-down"
        )
    name, source = values["environment"], found["environment"][1]
    if name is not None and name.startswith("run-") and commands in ([], ["up"]):
        raise pytest.UsageError(
            f"{source}: invalid environment name {name!r}: names that start with 'run-' belong to "
            "runs without a name"
        )


def _keeps_what_is_up(values: Mapping[str, Any]) -> bool:
    """Return whether `--plan-up` ends and keeps what it has provisioned for later runs."""
    return bool(values["up"]) and not values["share"]


def _report_files(config: pytest.Config, names: tuple[str, ...], source: str) -> tuple[Path, ...]:
    # A path in the ini file is relative to rootdir, any other path to the invocation directory.
    is_typed = not source.startswith("plan_report")
    folder = config.invocation_params.dir if is_typed else config.rootpath
    return tuple(dict.fromkeys(folder / os.path.expanduser(name) for name in names))


def _read(option: Option, value: Any, source: str) -> Any:
    if value is None:
        return None
    try:
        return READERS[option.kind](value, source)
    except PlanDefinitionError as error:
        raise pytest.UsageError(str(error)) from None


def _find(option: Option, config: pytest.Config) -> tuple[Any, str]:
    """Return the value with the highest precedence, and its source for error messages."""
    given = config.getoption(option.dest, None) if option.in_command_line else None
    if given is not None or option.is_command:
        return given, option.flag
    if option.variable in os.environ:
        return os.environ[option.variable], f"environment variable {option.variable}"
    source = f"{option.dest} in {config.inipath.name if config.inipath else 'ini'}"
    try:
        return config.getini(option.dest), source
    except (TypeError, ValueError, pytest.UsageError) as error:
        raise pytest.UsageError(f"{source}: {error}") from None
