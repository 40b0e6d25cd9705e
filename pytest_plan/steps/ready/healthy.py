"""The condition that the health check of a container succeeds."""

from __future__ import annotations

from pytest_plan.engine.shared.programs.readiness import Condition, NotReadyError, Target


def healthy() -> Condition:
    """Return the condition that a container is healthy, by the health check of its image."""
    return Healthy()


class Healthy(Condition):
    """The condition that `healthy` returns."""

    def check(self, target: Target, timeout: float) -> None:
        """Look at the health; see `Condition.check`."""
        if not target.is_ours:
            return
        state = target.health()
        if state != "healthy":
            raise NotReadyError(f"healthy: {state}")
