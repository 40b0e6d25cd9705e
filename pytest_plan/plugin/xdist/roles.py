"""What a process does with the plan: it runs its tests itself, or it is one end of xdist."""

from __future__ import annotations

import pytest

# Keys of xdist's `workerinput`.
CHANNEL = "pytest_plan_channel"
ENVIRON = "pytest_plan_environ"


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def is_controller(config: pytest.Config) -> bool:
    """Whether this process hands its tests to workers of pytest-xdist."""
    option = config.option
    return (
        not is_worker(config)
        and getattr(option, "dist", "no") != "no"
        and bool(getattr(option, "tx", None))
        and not option.collectonly
    )


def stay_alone(config: pytest.Config) -> None:
    """Keep xdist from starting workers; it looks at these options after us."""
    if is_controller(config):
        config.option.dist, config.option.tx, config.option.numprocesses = "no", [], 0
