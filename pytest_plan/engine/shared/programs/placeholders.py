"""The placeholders for ports and the host, in the arguments and the environment of a program.

`{port}` stands for a free port, `{port:NAME}` for another one with a name, and `{host}` for the
host. They are replaced wherever they occur. Braces around anything else stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pytest_plan.engine.model.errors import PlanDefinitionError

FIRST = "port"  # the name of the port for which `{port}` stands

_PLACEHOLDER = re.compile(r"\{(?:port(?::(?P<name>[A-Za-z_][\w-]*))?|host)\}")
_NEARLY = re.compile(r"\{(?:ports?|hosts?)(?::[^{}]*)?\}", re.IGNORECASE)


def ports_named(texts: Iterable[str]) -> list[str]:
    """Return the names of the ports for which placeholders in `texts` stand, in their order.

    Raises:
        PlanDefinitionError: a placeholder is misspelled, or two of them clash.
    """
    names: dict[str, str] = {}
    for text in texts:
        _refuse_misspelled(text)
        for found in _PLACEHOLDER.finditer(text):
            if found[0] == "{host}":
                continue
            name = found["name"] or FIRST
            if names.setdefault(name, found[0]) != found[0]:
                raise PlanDefinitionError(
                    f"{names[name]} and {found[0]} are two names of one port; use only {{port}}"
                )
    return list(names)


def filled(text: str, host: str, ports: Mapping[str, int]) -> str:
    """Return a text with its placeholders replaced; one for an unknown port stays as it is."""

    def value(found: re.Match[str]) -> str:
        if found[0] == "{host}":
            return host
        port = ports.get(found["name"] or FIRST)
        return found[0] if port is None else str(port)

    return _PLACEHOLDER.sub(value, text)


def _refuse_misspelled(text: str) -> None:
    for found in _NEARLY.finditer(text):
        if not _PLACEHOLDER.fullmatch(found[0]):
            raise PlanDefinitionError(
                f"unknown placeholder {found[0]} in {text!r}; "
                "use {port}, {port:NAME} or {host}"
            )
