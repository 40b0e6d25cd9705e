"""A running container, as conditions of readiness ask about it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.shared.programs.readiness import Target
from pytest_plan.steps.containers.engines.engine import Engine, docker_library, explained
from pytest_plan.steps.containers.engines.logs import Follower, last_lines
from pytest_plan.steps.containers.engines.watching import failure_of, has_ended, name_of
from pytest_plan.steps.containers.value import Container

_ANSWERS_WITHIN = 10.0  # seconds for each answer of the engine about the container
_LASTS = 0.1  # seconds that a connection must last
_LAST_LINES = 1.0  # seconds that the log of a container that has ended may take


class ContainerTarget(Target):
    """A container whose readiness a step waits for.

    Args:
        engine: the engine that runs it.
        container: the container of the library `docker`.
        value: what the step gets.
        follower: what copies its output to the log of the step.
        service: the name of its service in a compose file; "" if it is not from one.

    Attributes:
        tcp_ports: the TCP ports that it publishes, by their numbers in the container.
    """

    def __init__(
        self,
        engine: Engine,
        container: Any,
        value: Container,
        follower: Follower,
        service: str = "",
    ) -> None:
        self.name = name_of(container.attrs, service)
        self.host = value.host
        self.ports = value.ports
        self.value: Container = value
        self.tcp_ports: list[int] = [
            int(key.removesuffix("/tcp"))
            for key, places in (container.attrs["NetworkSettings"].get("Ports") or {}).items()
            if key.endswith("/tcp") and places
        ]
        self._engine = engine
        self._container = container
        self._follower = follower
        self._service = service
        engine.allow(_ANSWERS_WITHIN)

    def failure(self) -> str | None:
        """Return how the container has ended; None while it runs."""
        try:
            is_there = self._reload()
        except RuntimeError as error:
            return str(error)
        if not is_there:
            return f"{self.name} was removed before it was ready"
        if (failure := failure_of(self._container.attrs, self._service)) is None:
            return None
        self._follower.finish(_LAST_LINES)
        lines = last_lines(self._container)
        log = f"; its log ends:\n{lines}" if lines else "; it has written nothing"
        return f"{self.name} {failure} before it was ready{log}"

    def _reload(self) -> bool:
        """Ask the engine about the container; return False if it was removed."""
        with explained(f"cannot look at {self.name}"):
            try:
                self._container.reload()
            except docker_library().errors.NotFound:
                return False
        return True

    @property
    def attrs(self) -> Mapping[str, Any]:
        """The container, as the engine has described it last."""
        attrs: Mapping[str, Any] = self._container.attrs
        return attrs

    def is_done(self) -> bool:
        """Return whether the container has ended, as it may."""
        return has_ended(self._container.attrs["State"])

    def output(self) -> str:
        """Return what the container has written."""
        with explained(f"cannot read the log of {self.name}"):
            return str(self._container.logs().decode("utf-8", "replace"))

    def run(self, argv: Sequence[str], timeout: float) -> tuple[int, str]:
        """Run a program in the container; return its exit status and its output."""
        execution = _Execution(self._container, list(argv))
        if not execution.has_ended_within(timeout):
            raise subprocess.TimeoutExpired(list(argv), timeout)
        with explained(f"cannot run {argv[0]!r} in {self.name}"):
            status, output = execution.result()
        return int(status), str((output or b"").decode("utf-8", "replace"))

    def has_accepted(self, connection: socket.socket) -> bool:
        """Return whether the connection lasts.

        A proxy of the engine accepts connections before the server does, and closes them then.
        """
        connection.settimeout(_LASTS)
        try:
            return bool(connection.recv(1, socket.MSG_PEEK))
        except TimeoutError:
            return True

    def has_health_check(self) -> bool:
        """Return whether the image or the compose file has a health check."""
        test = (self._container.attrs["Config"].get("Healthcheck") or {}).get("Test") or ["NONE"]
        return test != ["NONE"]

    def health(self) -> str:
        """Return its state of health, and what the health check has written last.

        Without systemd, podman makes no health check by itself, so it is asked to make one now.
        """
        if not self.has_health_check():
            raise PlanDefinitionError(
                f"{self.name} has no health check: add HEALTHCHECK to its image, or use another "
                "condition"
            )
        if self._engine.is_podman:
            self._check_health_now()
        self._container.reload()
        health = self._container.attrs["State"].get("Health") or {}
        status = str(health.get("Status") or "starting")
        results = health.get("Log") or []
        said = " ".join(str(results[-1].get("Output") or "").split()) if results else ""
        return status if status == "healthy" or not said else f"{status}: {said}"

    def _check_health_now(self) -> None:
        api = self._engine.client.api
        with contextlib.suppress(docker_library().errors.APIError):
            url = f"{api.base_url}/v4.0.0/libpod/containers/{self._container.id}/healthcheck"
            api.get(url, timeout=api.timeout).close()


class _Execution:
    """A program in a container, on a thread of its own: the library waits for it without limit."""

    def __init__(self, container: Any, argv: list[str]) -> None:
        self._container = container
        self._argv = argv
        self._result: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="plan-exec", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the system refuses a thread
            self._run()

    def has_ended_within(self, seconds: float) -> bool:
        """Wait for the end of the program; return whether it has ended."""
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self) -> Any:
        """Return the exit status and the output; raise the error of the engine."""
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._container.exec_run(self._argv)
        except Exception as error:
            self._error = error
