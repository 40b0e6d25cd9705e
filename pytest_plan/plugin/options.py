"""Defines the options, and reads them from the command line, environment variables or ini file."""

from __future__ import annotations

import enum
import os
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_plan.engine.model.errors import PlanDefinitionError

DEFAULT_ENVIRONMENT = "default"  # the environment to keep or reuse if no name is given
_ENVIRONMENT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class _Kind(enum.Enum):
    """The kind of value that an option takes."""

    DURATION = "duration"
    LONGER_THAN_ZERO = "duration longer than zero"
    COUNT = "count"
    FLAG = "flag"
    NAME = "name"
    NAMES = "names"
    KEEP = "when to keep"
    ENVIRONMENT = "name of an environment"
    REPORTS = "paths of reports"


class _Option(NamedTuple):
    """One option: `--plan-NAME`, `PYTEST_PLAN_NAME`, `plan_name`."""

    name: str
    kind: _Kind
    help: str
    metavar: str | None = None
    in_command_line: bool = True

    @property
    def dest(self) -> str:
        return f"plan_{self.name}"

    @property
    def flag(self) -> str:
        return f"--{self.dest.replace('_', '-')}"

    @property
    def variable(self) -> str:
        return f"PYTEST_{self.dest.upper()}"


# The endings that select the type of a report; `.trace.json` comes before `.json`.
REPORT_ENDINGS = (".trace.json", ".json", ".html", ".md", ".mmd")
_LISTS = (_Kind.NAMES, _Kind.REPORTS)

_OPTIONS = (
    _Option("show", _Kind.FLAG, "Show the plan and which tests need which steps; run nothing"),
    _Option(
        "limit",
        _Kind.DURATION,
        "Maximum total time for provisioning and tests; 0 means no limit (default: no limit)",
        "DURATION",
    ),
    _Option(
        "cleanup_limit",
        _Kind.LONGER_THAN_ZERO,
        "Maximum total time for cleanup (default: 5m)",
        "DURATION",
    ),
    _Option("jobs", _Kind.COUNT, "Maximum number of steps to run in parallel (default: 8)", "N"),
    _Option(
        "continue_on_error",
        _Kind.FLAG,
        "After a failed step, continue with all steps and tests that do not need it",
    ),
    _Option(
        "until",
        _Kind.NAME,
        "Run only this step and the steps it needs; skip tests that need other steps",
        "STEP",
    ),
    _Option(
        "skip",
        _Kind.NAMES,
        "Skip this step, and all steps and tests that need it. Can be specified multiple times.",
        "STEP",
    ),
    _Option(
        "keep",
        _Kind.KEEP,
        "When to keep the environment after the run: 'never', 'failed' (after any failure, a "
        "timeout or a signal) or 'always' (default: never; with --plan-reuse: always)",
        "WHEN",
    ),
    _Option("reuse", _Kind.FLAG, "Reuse the environment kept by an earlier run, and keep it again"),
    _Option("cleanup", _Kind.FLAG, "Clean up the environments of earlier runs; run no tests"),
    _Option(
        "environment",
        _Kind.ENVIRONMENT,
        "Name of the environment to keep or reuse (default: 'default')",
        "NAME",
    ),
    _Option(
        "reaper",
        _Kind.FLAG,
        "Start the reaper, a process that cleans up if pytest is killed (default: true)",
        in_command_line=False,
    ),
    _Option(
        "report",
        _Kind.REPORTS,
        f"Write a report of the run; the file name ends in {', '.join(REPORT_ENDINGS[:-1])} or "
        f"{REPORT_ENDINGS[-1]}. Can be specified multiple times.",
        "PATH",
    ),
    _Option(
        "github_summary",
        _Kind.FLAG,
        "Add the report to the job summary of GitHub Actions ($GITHUB_STEP_SUMMARY)",
        in_command_line=False,
    ),
    _Option(
        "pause_on_failure",
        _Kind.FLAG,
        "Wait for Enter after a failed step, before its cleanup (requires a terminal)",
    ),
    _Option(
        "dir",
        _Kind.NAME,
        "Folder for journals and artifacts, relative to rootdir (default: .pytest_plan)",
        in_command_line=False,
    ),
    _Option("autouse", _Kind.FLAG, "Make every test need every step", in_command_line=False),
    _Option(
        "eager",
        _Kind.FLAG,
        "Provision every step of the initial conftests before collection",
        in_command_line=False,
    ),
    _Option(
        "signals",
        _Kind.FLAG,
        "Handle SIGINT, SIGTERM and SIGHUP: stop and clean up (default: true)",
        in_command_line=False,
    ),
)


class Settings(NamedTuple):
    """The options of this run, validated.

    Attributes:
        show: whether to print the plan and run nothing.
        limit: the maximum time for provisioning and tests, in seconds; None means no limit.
        cleanup_limit: the maximum time for cleanup, in seconds; None means the engine's default.
        jobs: the maximum number of steps to run in parallel; None means the engine's default.
        continue_on_error: whether to continue with everything that does not need a failed step.
        until: the step to run, together with the steps it needs; None means all steps that tests
            need.
        skip: the steps to skip.
        keep: when to keep the environment; None means `always` if `reuse` is true, otherwise
            `never`.
        reuse: whether to reuse a kept environment.
        cleanup: whether to clean up the environments of earlier runs and run nothing.
        environment: the name of the environment; None if no name was given.
        reaper: whether to start the reaper.
        report: the report files to write, each ending in one of `REPORT_ENDINGS`.
        github_summary: whether to add the report to the job summary of GitHub Actions.
        pause_on_failure: whether to wait for Enter after a failed step.
        dir: the folder for journals and artifacts.
        autouse: whether every test needs every step.
        eager: whether every step of the initial conftests is eager.
        signals: whether to handle SIGINT, SIGTERM and SIGHUP.
        sources: the source of each option's value, for error messages, by option name.
    """

    show: bool
    limit: float | None
    cleanup_limit: float | None
    jobs: int | None
    continue_on_error: bool
    until: str | None
    skip: tuple[str, ...]
    keep: str | None
    reuse: bool
    cleanup: bool
    environment: str | None
    reaper: bool
    report: tuple[Path, ...]
    github_summary: bool
    pause_on_failure: bool
    dir: Path
    autouse: bool
    eager: bool
    signals: bool
    sources: Mapping[str, str]

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
    for option in _OPTIONS:
        if option.in_command_line:
            group.addoption(option.flag, **_argument(option))
        _addini(parser, option)


def _argument(option: _Option) -> dict[str, Any]:
    common = {"dest": option.dest, "default": None, "help": option.help}
    if option.kind is _Kind.FLAG:
        return {**common, "action": "store_true"}
    action = "append" if option.kind in _LISTS else "store"
    return {**common, "action": action, "metavar": option.metavar}


def _addini(parser: pytest.Parser, option: _Option) -> None:
    if option.kind is _Kind.FLAG:
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
    found = {option.name: _find(option, config) for option in _OPTIONS}
    values = {option.name: _read(option, *found[option.name]) for option in _OPTIONS}
    folder = Path(values["dir"] or ".pytest_plan")
    return Settings(
        **{
            **values,
            "limit": values["limit"] or None,
            "skip": values["skip"] or (),
            "report": _report_files(config, values["report"] or (), found["report"][1]),
            "dir": config.rootpath / folder,
            "sources": {name: source for name, (_, source) in found.items()},
            **{
                option.name: bool(values[option.name])
                for option in _OPTIONS
                if option.kind is _Kind.FLAG
            },
            "signals": values["signals"] is not False,
            "reaper": values["reaper"] is not False,
        }
    )


def _report_files(config: pytest.Config, names: tuple[str, ...], source: str) -> tuple[Path, ...]:
    # A path in the ini file is relative to rootdir, any other path to the invocation directory.
    is_typed = not source.startswith("plan_report")
    folder = config.invocation_params.dir if is_typed else config.rootpath
    return tuple(dict.fromkeys(folder / os.path.expanduser(name) for name in names))


def _read(option: _Option, value: Any, source: str) -> Any:
    if value is None:
        return None
    try:
        return _READERS[option.kind](value, source)
    except PlanDefinitionError as error:
        raise pytest.UsageError(str(error)) from None


def _find(option: _Option, config: pytest.Config) -> tuple[Any, str]:
    """Return the value with the highest precedence, and its source for error messages."""
    given = config.getoption(option.dest, None) if option.in_command_line else None
    if given is not None:
        return given, option.flag
    if option.variable in os.environ:
        return os.environ[option.variable], f"environment variable {option.variable}"
    source = f"{option.dest} in {config.inipath.name if config.inipath else 'ini'}"
    try:
        return config.getini(option.dest), source
    except (TypeError, ValueError, pytest.UsageError) as error:
        raise pytest.UsageError(f"{source}: {error}") from None


def _duration(value: Any, source: str) -> float:
    # Imported here so that a run without these options does not import the engine.
    from pytest_plan.engine.model.durations import parse_duration

    return parse_duration(value, source)


def _longer_than_zero(value: Any, source: str) -> float:
    from pytest_plan.engine.model.durations import parse_duration

    return parse_duration(value, source, zero=False)


def _count(value: Any, source: str) -> int:
    text = str(value).strip()
    if not text.isdecimal() or int(text) < 1:
        raise PlanDefinitionError(f"{source}: {value!r} is not a positive integer")
    return int(text)


def _flag(value: Any, source: str) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off", ""):
        return False
    raise PlanDefinitionError(f"{source}: {value!r} is neither true nor false")


def _name(value: Any, source: str) -> str | None:
    if not isinstance(value, str):
        raise PlanDefinitionError(f"{source}: {value!r} is not a name")
    return value.strip() or None


def _names(value: Any, source: str) -> tuple[str, ...]:
    texts = value.replace(",", " ").split() if isinstance(value, str) else value
    return tuple(name for text in texts for name in str(text).replace(",", " ").split())


def _keep(value: Any, source: str) -> str:
    if value not in ("never", "failed", "always"):
        raise PlanDefinitionError(
            f"{source}: invalid value {value!r}; choose never, failed or always"
        )
    return str(value)


def _environment(value: Any, source: str) -> str | None:
    name = _name(value, source)
    if name is None or (re.fullmatch(_ENVIRONMENT, name) and not name.startswith("run-")):
        return name
    raise PlanDefinitionError(
        f"{source}: invalid environment name {name!r}: use at most 64 letters, "
        "digits, '.', '_' or '-', starting with a letter or digit, but not with 'run-'"
    )


def _reports(value: Any, source: str) -> tuple[str, ...]:
    names = tuple(map(str, _words(value, source)))
    for name in names:
        if not name.endswith(REPORT_ENDINGS):
            raise PlanDefinitionError(
                f"{source}: unknown report type {name!r}; use one of {', '.join(REPORT_ENDINGS)}"
            )
    return names


def _words(value: Any, source: str) -> list[Any]:
    if not isinstance(value, str):
        return list(value)
    try:
        return shlex.split(value)
    except ValueError as error:
        raise PlanDefinitionError(f"{source}: cannot parse {value!r}: {error}") from None


_READERS: Mapping[_Kind, Callable[[Any, str], Any]] = {
    _Kind.DURATION: _duration,
    _Kind.LONGER_THAN_ZERO: _longer_than_zero,
    _Kind.COUNT: _count,
    _Kind.FLAG: _flag,
    _Kind.NAME: _name,
    _Kind.NAMES: _names,
    _Kind.KEEP: _keep,
    _Kind.ENVIRONMENT: _environment,
    _Kind.REPORTS: _reports,
}
