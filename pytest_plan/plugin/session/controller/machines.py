"""Warns of addresses that mean another machine to workers on other machines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.processes.addresses import is_loopback, network
from pytest_plan.plugin.compat import pytest_internals

if TYPE_CHECKING:
    from pytest_plan.plugin.xdist.server import Answers, Server


class LoopbackWarnings:
    """Warns once of each step that gives a loopback address to workers on other machines.

    Args:
        config: the config of the controller.
        answers: what workers are told.
    """

    def __init__(self, config: pytest.Config, answers: Answers) -> None:
        self._config = config
        self._answers = answers
        self._warned: set[str] = set()

    def warn(self, servers: Iterable[Server], names: Iterable[str]) -> None:
        """Warn if any of these workers is on another machine.

        Args:
            servers: the workers.
            names: the steps that tests need.
        """
        own = network()
        server = next((one for one in servers if one.network not in ("", own)), None)
        if server is None:
            return
        for step, (part, found) in self._answers.loopback(names).items():
            template = self._answers.host.run.step_runs[step].planned.template
            if template in self._warned:
                continue
            self._warned.add(template)
            pytest_internals.warn(
                self._config,
                f"the {part} of step {template!r} contains {found!r}, which is another machine for "
                f"worker {server.worker!r} on {server.host!r}: {self._cure()}",
            )

    def _cure(self) -> str:
        address = self._answers.host.run.facts.host
        if not is_loopback(address):
            return f"let the step use ctx.host, which is {address!r}"
        return (
            "let the step use ctx.host, as the ready-made steps do, and run pytest with "
            "--plan-host and an address of this machine that the worker can reach"
        )
