"""The name and the labels of what one call in a step makes."""

from __future__ import annotations

import re
import secrets

from pytest_plan.engine.calls.context import Context, starter_of

_CALL = "pytest-plan.call"
IMAGE = "pytest-plan.image"  # the label with the name by which the step knows the image


class Mark:
    """The name and the labels of what one call in a step makes.

    Args:
        ctx: the context of the step.

    Attributes:
        name: a name that nothing else has, in lower case.
        labels: the labels.
        label: the label by which cleanup finds it, such as `name=value`.
    """

    def __init__(self, ctx: Context) -> None:
        run = starter_of(ctx).run_id
        step = re.sub(r"[^a-z0-9]+", "-", ctx.step.lower()).strip("-")[:40]
        self.name = "-".join(filter(None, ["plan", run, step, secrets.token_hex(3)]))
        self.label = f"{_CALL}={self.name}"
        self.labels: dict[str, str] = {
            _CALL: self.name,
            "pytest-plan.run": run,
            "pytest-plan.step": ctx.step,
            "pytest-plan.attempt": str(ctx.attempt),
        }
