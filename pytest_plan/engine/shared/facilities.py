"""Free ports and environment variables, shared by all steps of a run."""

from __future__ import annotations

import os
import socket
import threading

from pytest_plan.engine.model.errors import PlanDefinitionError


class Ports:
    """Hands out free ports of the loopback interface, each at most once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _given
        self._given: set[int] = set()

    def take(self) -> int:
        """Return a free port that was not handed out before."""
        with self._lock:
            while True:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", 0))
                    port = int(probe.getsockname()[1])
                if port not in self._given:
                    self._given.add(port)
                    return port


class Variables:
    """The environment variables that steps set. Only one step may set each variable."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _owners, and each read and write of os.environ
        # For each variable: the step that set it, and the earlier values (None: it was not set).
        self._owners: dict[str, tuple[str, list[str | None]]] = {}

    def set(self, name: str, value: str, step: str) -> None:
        """Set the environment variable `name` of this process.

        Raises:
            PlanDefinitionError: another step has already set it.
        """
        with self._lock:
            owner, before = self._owners.get(name, (step, []))
            if owner != step:
                raise PlanDefinitionError(
                    f"steps {owner!r} and {step!r} both set the environment variable {name!r}",
                    step=step,
                )
            was = os.environ.get(name)
            os.environ[name] = value
            self._owners[name] = (owner, [*before, was])

    def restore(self, name: str) -> None:
        """Undo the last call of `set` for `name` that is not undone yet."""
        with self._lock:
            owner, before = self._owners.pop(name)
            *earlier, was = before
            if earlier:
                self._owners[name] = (owner, earlier)
            if was is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = was

    def current(self) -> dict[str, str]:
        """Return the variables that steps have set, and their current values."""
        with self._lock:
            return {name: os.environ[name] for name in self._owners if name in os.environ}
