"""Checks whether a container engine answers: Docker or podman."""

from __future__ import annotations

import importlib
import os
import queue
import threading
from collections.abc import Iterator
from typing import Any

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.plugin.commands.doctor.finding import Finding, Level

_PATIENCE = 2.0  # seconds
_ONLY = "only steps that run containers need it"
_ENGINE = "pytest_plan.steps.containers.engines.engine"


def containers() -> Iterator[Finding]:
    """Check each engine that may be there; one at DOCKER_HOST must be."""
    subject, is_given = "containers", bool(os.environ.get("DOCKER_HOST"))
    answers: queue.SimpleQueue[str | Exception] = queue.SimpleQueue()
    threading.Thread(target=_ask, args=(answers,), name="plan-doctor", daemon=True).start()
    try:
        answer = SystemClock().get(answers, 2 * _PATIENCE)
    except queue.Empty:
        answer = TimeoutError(f"it has not answered within {2 * _PATIENCE:.0f} s")
    if isinstance(answer, str):
        yield Finding(Level.OK, subject, f"{answer} answers")
    elif is_given:
        text = f"the engine at DOCKER_HOST cannot be used: {_reason(answer)}"
        yield Finding(Level.PROBLEM, subject, text, f"start it, or unset DOCKER_HOST; {_ONLY}")
    else:
        yield Finding(Level.NOTE, subject, f"no engine: {_reason(answer)}", _ONLY)


def _ask(answers: queue.SimpleQueue[str | Exception]) -> None:
    try:
        # Loaded by name, because nothing imports the ready-made steps.
        answers.put(_first(importlib.import_module(_ENGINE)))
    except Exception as error:
        answers.put(error)


def _first(engines: Any) -> str:
    """Return the first engine that answers, as text, or raise the last error."""
    engines.docker_library()
    given = os.environ.get("DOCKER_HOST")
    error: Exception | None = None
    for address in [given] if given else engines._addresses():
        try:
            found = engines.open_engine(address, _PATIENCE / 0.8)
        except engines.UnreachableError as unreachable:
            error = unreachable
            continue
        found.client.close()
        return "podman" if found.is_podman else "Docker"
    assert error is not None
    raise error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    given = os.environ.get("DOCKER_HOST")
    return text.replace(given, "DOCKER_HOST") if given else text
