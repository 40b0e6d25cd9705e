"""Determines the role of this process: solo, or a controller or worker of pytest-xdist."""

from __future__ import annotations

import pytest

# Keys of xdist's `workerinput`.
CHANNEL = "pytest_plan_channel"
ENVIRON = "pytest_plan_environ"
EACH = "pytest_plan_each"


def is_worker(config: pytest.Config) -> bool:
    """Return whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def worker_count(config: pytest.Config) -> int:
    """Return the number of workers of the run of which this process is a worker."""
    return int(config.workerinput.get("workercount", 1))  # type: ignore[attr-defined]


def runs_each(config: pytest.Config) -> bool:
    """Return whether all workers run the tests of this worker at the same time (`--dist each`)."""
    return bool(config.workerinput.get(EACH))  # type: ignore[attr-defined]


def is_controller(config: pytest.Config) -> bool:
    """Return whether this process distributes its tests to workers of pytest-xdist."""
    option = config.option
    return (
        not is_worker(config)
        and getattr(option, "dist", "no") != "no"
        and bool(getattr(option, "tx", None))
        and not option.collectonly
    )


def disable_workers(config: pytest.Config) -> None:
    """Keep xdist from starting workers; xdist reads these options after this plugin has run."""
    if is_controller(config):
        config.option.dist, config.option.tx, config.option.numprocesses = "no", [], 0
