"""Reads the values of options, and refuses a bad value with a message that names its source."""

from __future__ import annotations

import enum
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from pytest_plan.engine.model.errors import PlanDefinitionError

# The endings that select the type of a report; `.trace.json` comes before `.json`.
REPORT_ENDINGS = (".trace.json", ".json", ".html", ".md", ".mmd")
_ENVIRONMENT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class Kind(enum.Enum):
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
    HOST = "address of this machine"


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


def _environment(value: Any, source: str) -> str:
    name = _name(value, source) or ""
    if re.fullmatch(_ENVIRONMENT, name):
        return name
    raise PlanDefinitionError(
        f"{source}: invalid environment name {name!r}: use 1 to 64 letters, digits, '.', '_' or "
        "'-', starting with a letter or digit"
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


def _host(value: Any, source: str) -> str:
    from pytest_plan.engine.processes.addresses import check_host

    return check_host(value, source)


READERS: Mapping[Kind, Callable[[Any, str], Any]] = {
    Kind.DURATION: _duration,
    Kind.LONGER_THAN_ZERO: _longer_than_zero,
    Kind.COUNT: _count,
    Kind.FLAG: _flag,
    Kind.NAME: _name,
    Kind.NAMES: _names,
    Kind.KEEP: _keep,
    Kind.ENVIRONMENT: _environment,
    Kind.REPORTS: _reports,
    Kind.HOST: _host,
}
