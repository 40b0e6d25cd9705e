"""Notices when a container ends that tests rely on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.processes.identity import Identity, identify
from pytest_plan.engine.shared.programs.checks import Check
from pytest_plan.engine.shared.programs.resources import Care
from pytest_plan.engine.shared.programs.watched import Watched
from pytest_plan.steps.containers.engines.engine import (
    UnreachableError,
    closing,
    docker_library,
    explained,
    open_engine,
)
from pytest_plan.steps.containers.engines.mark import IMAGE

_NOTICED_WITHIN = 2.0  # seconds until an engine has noticed that a process has ended
_LOOK = 0.05  # seconds between two questions meanwhile
_EVERY = 5.0  # seconds between two questions about a container whose process cannot be seen


def watch(
    care: Care, address: str, attrs: Mapping[str, Any], service: str = ""
) -> Callable[[], None] | None:
    """Let the step be lost when a container ends while tests run.

    Args:
        care: what the step offers to its resources.
        address: the address of the engine.
        attrs: the running container, as the engine describes it.
        service: the name of its service in a compose file; "" if it is not from one.

    Returns:
        A function that ends the watch; None if the container has done its work.
    """
    if has_ended(attrs["State"]):
        return None
    name = name_of(attrs, service)
    root = process_of(attrs)
    if root is None:
        check = Check(care.step, name, Look(address, attrs["Id"], service), _EVERY)
        care.checks.add(check)
        return functools.partial(care.checks.remove, check)
    watched = WatchedContainer(care, name, address, attrs["Id"], service=service, root=root)
    care.programs.watch(care.step, watched)
    return watched.rest


def name_of(attrs: Mapping[str, Any], service: str) -> str:
    """Return what messages call a container."""
    image = (attrs["Config"].get("Labels") or {}).get(IMAGE) or attrs["Config"]["Image"]
    return f"service {service!r}" if service else f"container {image!r}"


def failure_of(attrs: Mapping[str, Any], service: str) -> str | None:
    """Return how a container has ended that should still run; None if all is well.

    A service that publishes no port may exit with status 0, as one does that migrates a database.
    """
    state = attrs["State"]
    if not has_ended(state):
        return None
    serves = not service or attrs["HostConfig"].get("PortBindings")
    return ending(state) if serves or state.get("ExitCode") else None


def process_of(attrs: Any) -> Identity | None:
    """Return the first process of a container; None if this process cannot see it.

    It cannot if the engine runs on another machine, or in a virtual machine, or if this process is
    in a container itself. The same number is then that of another process, or of none.
    """
    pid = int(attrs["State"].get("Pid") or 0)
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text() if pid else ""
    except OSError:
        return None
    return identify(pid) if attrs["Id"] in groups else None


class WatchedContainer(Watched):
    """A container whose first process can be seen, so that its end is noticed at once.

    Args:
        care: what the step offers to its resources.
        name: what messages call it.
        address: the address of the engine.
        container: the id of the container.
        service: the name of its service in a compose file; "" if it is not from one.
        root: its first process.
    """

    def __init__(
        self, care: Care, name: str, address: str, container: str, *, service: str, root: Identity
    ) -> None:
        super().__init__(name, care.log)
        self.is_kept = care.is_kept
        self._service = service
        self._address = address
        self._container = container
        self._root = root
        self._state: Mapping[str, Any] | None = None  # once it has ended; empty if it was removed
        self._rests = False

    def rest(self) -> None:
        """End the watch: the container may end from now on."""
        self._rests = True

    def may_end(self) -> bool:
        """Return whether it has done its work."""
        return self._rests

    def members(self) -> list[Identity]:
        """Return its first process, if it is running."""
        return [self._root] if self._root.is_alive() else []

    def is_lost(self, now: float, *, waiting: bool) -> bool:
        """Return whether it has ended before its work was done, and was not started again."""
        if self._state is None and not self._rests and not self._root.is_alive():
            self._look()
        return self._state is not None and not self._rests

    def how(self) -> tuple[str, int | None, str]:
        """Return its name, its exit status if that is known, and how it has ended."""
        status = (self._state or {}).get("ExitCode")
        return self._name, status, self._ending()

    def _look(self) -> None:
        """Ask the engine how the container has ended, or which its first process is now."""
        deadline = SystemClock.now() + _NOTICED_WITHIN
        while self._state is None:
            try:
                attrs = inspected(self._address, self._container)
            except RuntimeError as error:
                self._state = {"Error": str(error)}
                return
            if attrs is None or has_ended(attrs["State"]):
                self._rests = attrs is not None and failure_of(attrs, self._service) is None
                self._state = None if self._rests else attrs["State"] if attrs else {}
                return
            root = process_of(attrs)
            if root is not None and root.is_alive():
                self._root = root
                return
            if SystemClock.now() >= deadline:
                self._state = attrs["State"]
                return
            SystemClock.sleep(_LOOK)  # the engine notices the end a little later

    def _ending(self) -> str:
        return f"{super()._ending()} {ending(self._state or {})}"


class Look:
    """A check that a container runs.

    Args:
        address: the address of the engine.
        container: the id of the container.
        service: the name of its service in a compose file; "" if it is not from one.
    """

    def __init__(self, address: str, container: str, service: str) -> None:
        self._address = address
        self._container = container
        self._service = service

    def __call__(self) -> bool:
        """Return True; raise RuntimeError if the container has ended or no engine answers."""
        attrs = inspected(self._address, self._container)
        failure = "was removed" if attrs is None else failure_of(attrs, self._service)
        if failure:
            raise RuntimeError(failure)
        return True


def inspected(address: str, container: str) -> dict[str, Any] | None:
    """Return a container as the engine describes it; None if it was removed.

    Raises:
        RuntimeError: the engine does not answer.
    """
    try:
        engine = open_engine(address, None)
    except UnreachableError as error:
        raise RuntimeError(f"the container engine at {address} does not answer: {error}") from None
    with closing(engine), explained(f"cannot look at container {container[:12]}"):
        try:
            attrs: dict[str, Any] = engine.client.api.inspect_container(container)
        except docker_library().errors.NotFound:
            return None
    return attrs


def has_ended(state: Mapping[str, Any]) -> bool:
    """Return whether a container has ended, by its state as an engine tells it."""
    return state.get("Status") in ("exited", "dead", "stopped", "removing")


def ending(state: Mapping[str, Any]) -> str:
    """Return how a container has ended, by its state as an engine tells it; {} if it is gone."""
    if not state:
        return "was removed"
    if "ExitCode" not in state:
        return f"has ended ({state['Error']})"
    text = f"exited with status {state['ExitCode']}"
    if state.get("OOMKilled"):
        text += " (it ran out of memory)"
    return f"{text} ({state['Error']})" if state.get("Error") else text
