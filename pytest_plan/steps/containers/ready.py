"""Waits until containers are ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_plan.engine.calls.context import Context, starter_of
from pytest_plan.engine.shared.programs.readiness import Condition, NotReadyError, Target
from pytest_plan.steps.containers.target import ContainerTarget
from pytest_plan.steps.ready.healthy import healthy
from pytest_plan.steps.ready.tcp import tcp


class Usable(Condition):
    """A container's health check passes; without one, its TCP ports accept connections."""

    def check(self, target: Target, timeout: float) -> None:
        """Ask the engine for the health, or connect to each port."""
        assert isinstance(target, ContainerTarget)
        if target.is_done():
            return
        if target.has_health_check():
            healthy().check(target, timeout)
            return
        for port in target.tcp_ports:
            tcp(port).check(target, timeout)


def wait_for_containers(
    ctx: Context,
    pairs: Sequence[tuple[ContainerTarget, Condition]],
    timeout: float | None,
    what: str,
) -> None:
    """Wait until containers are ready.

    Args:
        ctx: the context of the step.
        pairs: the containers, each with its condition.
        timeout: the seconds that this may take; None means until the deadline of the step.
        what: the function to which the timeout belongs, for messages.

    Raises:
        TimeoutError: a container was not ready in time.
        RuntimeError: a container has ended.
        PlanError: the hook must stop, or a container can never be ready.
    """
    target = _Group([target for target, _ in pairs])
    starter_of(ctx).wait_until_ready(target, _Each(pairs), timeout, what)


class _Group(Target):
    """Containers that must all run while any of them is waited for."""

    def __init__(self, targets: Sequence[ContainerTarget]) -> None:
        self.name = " and ".join(target.name for target in targets)
        self.host = ""
        self.ports: Mapping[int, int] = {}
        self.value = None
        self._targets = targets

    def failure(self) -> str | None:
        """Return how one of them has ended; None while all of them run."""
        failures = (target.failure() for target in self._targets)
        return next((failure for failure in failures if failure is not None), None)


class _Each(Condition):
    """Each container meets its condition, once."""

    def __init__(self, pairs: Sequence[tuple[ContainerTarget, Condition]]) -> None:
        self._left = list(pairs)
        self._shows_names = len(pairs) > 1

    def check(self, target: Target, timeout: float) -> None:
        """Check the containers that were not ready yet, in order."""
        while self._left:
            one, condition = self._left[0]
            try:
                condition.check(one, timeout)
            except NotReadyError as error:
                if not self._shows_names:
                    raise
                raise NotReadyError(f"{one.name}: {error}") from error.__cause__
            del self._left[0]
