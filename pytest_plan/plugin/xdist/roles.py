"""Determines the role of this process: solo, or a controller or worker of pytest-xdist."""

from __future__ import annotations

import pytest

# Keys of xdist's `workerinput`.
CHANNEL = "pytest_plan_channel"
ENVIRON = "pytest_plan_environ"
HIDDEN = "pytest_plan_hidden"
EACH = "pytest_plan_each"
WORKER = "pytest_plan_worker"

_SOLO = "master"  # as in `definition.instances`, which a run without steps does not import


def is_worker(config: pytest.Config) -> bool:
    """Return whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def worker_count(config: pytest.Config) -> int:
    """Return the number of workers of the run of which this process is a worker."""
    return int(config.workerinput.get("workercount", 1))  # type: ignore[attr-defined]


def runs_each(config: pytest.Config) -> bool:
    """Return whether all workers run the tests of this worker at the same time (`--dist each`)."""
    return bool(config.workerinput.get(EACH))  # type: ignore[attr-defined]


def worker_name(config: pytest.Config) -> str:
    """Return the worker in the names of the instances that tests of this process use."""
    given: dict[str, str] = getattr(config, "workerinput", {})
    return given.get(WORKER) or given.get("workerid", _SOLO)


def expected_workers(config: pytest.Config) -> tuple[str, ...]:
    """Return the ids of the workers that xdist is about to start in a run of the controller."""
    specs: list[str] = []
    for given in config.option.tx:
        number, star, spec = str(given).partition("*")
        specs += [spec] * int(number) if star and number.isdigit() else [str(given)]
    ids = (spec.partition("//id=")[2].partition("//")[0] for spec in specs)
    return tuple(given or f"gw{number}" for number, given in enumerate(ids))


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
