"""The attributes of server steps, and the checks of their values."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from pytest_plan.engine.definition.names import suggest
from pytest_plan.engine.definition.options import OPTION_NAMES
from pytest_plan.engine.definition.step import Step
from pytest_plan.engine.model.errors import PlanDefinitionError

Settings: TypeAlias = Mapping[str, "str | int | float | bool"]
NO_SETTINGS: Settings = MappingProxyType({})


class Attribute(NamedTuple):
    """An attribute that users may set.

    Attributes:
        wanted: what its value must be.
        is_valid: a function that returns whether a value is that.
    """

    wanted: str
    is_valid: Callable[[Any], bool]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()


def _is_name(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[^\W\d][\w$-]*", value) is not None


def _is_version(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)*", value) is not None


def _is_settings(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str)
        and re.fullmatch(r"[A-Za-z][\w.-]*", name)
        and isinstance(setting, str | int | float)
        and (not isinstance(setting, str) or setting.isprintable())
        for name, setting in value.items()
    )


VERSION = Attribute(
    "text such as '16' or '16.4', or None", lambda value: value is None or _is_version(value)
)
BIN = Attribute(
    "the path of a folder or a program, or None",
    lambda value: value is None or _is_text(value) or isinstance(value, os.PathLike),
)
NAME = Attribute("a name of letters, digits, '_' and '-'", _is_name)
PASSWORD = Attribute(
    "printable text, or None for a random one",
    lambda value: value in (None, "") or _is_text(value),
)
SETTINGS = Attribute("a dict from names to text or numbers", _is_settings)
VARIABLE = Attribute(
    "the name of an environment variable, or None",
    lambda value: value is None or (_is_name(value) and value.isidentifier()),
)


def check_attributes(
    step: Step, attributes: Mapping[str, Attribute], reserved: Collection[str]
) -> None:
    """Check the names and values of the attributes that a user has set on a step.

    Args:
        step: the step.
        attributes: the attributes that it has, besides the options and hooks of every step.
        reserved: the settings that the step chooses itself.

    Raises:
        PlanDefinitionError: an attribute is unknown, or its value is invalid.
    """
    kind = type(step).__qualname__
    for name in _set_by_users(step):
        if name not in attributes and name not in OPTION_NAMES:
            raise PlanDefinitionError(
                f"{kind} has no attribute {name!r}{suggest(name, [*attributes, *OPTION_NAMES])} "
                f"(its attributes: {', '.join(attributes)}, and the options of every step)"
            )
    for name, attribute in attributes.items():
        value = getattr(step, name)
        if not attribute.is_valid(value):
            raise PlanDefinitionError(f"{name} of {kind} must be {attribute.wanted}, not {value!r}")
    for name in getattr(step, "settings", {}):
        if name.replace("-", "_") in reserved:
            raise PlanDefinitionError(
                f"settings of {kind}: the step itself chooses {name!r}; remove it"
            )


def _set_by_users(step: Step) -> list[str]:
    """Return the names of the public attributes that are neither methods nor properties."""
    kinds = [kind for kind in type(step).__mro__ if kind not in (Step, object)]
    held = [item for kind in kinds for item in vars(kind).items()] + list(vars(step).items())
    return [
        name
        for name, value in held
        if not name.startswith("_")
        and name != "pytestmark"  # of `pytest.mark`
        and not callable(value)
        and not hasattr(value, "__get__")
    ]
