"""The plan in the controller of pytest-xdist: provisioned once, for all workers."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

import pytest

from pytest_plan.plugin import lookup, worker
from pytest_plan.plugin.options import Settings
from pytest_plan.plugin.owner import Owner

_GRACE = 3.0  # seconds that workers may take to go before cleanup
_KILL_WAIT = 1.0


class Controller(Owner):
    """Provisions as soon as the first worker says what its tests need."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        super().__init__(config, settings)
        self._endpoints: dict[Any, Any] = {}  # by node
        self._desk: Any = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give each worker, clones of crashed ones included, its own channel."""
        from pytest_plan.plugin.endpoint import Endpoint

        channel = node.gateway.newchannel()
        self._endpoints[node] = Endpoint(node.gateway.id, channel, lambda: self._desk)
        node.workerinput[worker.CHANNEL] = channel
        node.workerinput[worker.ENVIRON] = self._variables()

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_node_collection_finished(self, node: Any) -> None:
        """Provision what this worker's tests need, while others still boot."""
        endpoint = self._endpoints[node]
        needs = endpoint.take_needs()
        if needs is None:
            self._refuse_bare_worker(endpoint)
            return
        if needs["error"] is not None:
            raise pytest.UsageError(needs["error"])
        plan = lookup.of(self._config, self._settings)
        self._load_conftests(needs["conftests"])
        self._open_desk()
        names = needs["needs"]
        try:
            steps = plan.steps
            plan.check(steps)
            plan.needed = plan.to_run([name for name in names if name in steps], steps)
            plan.host.provision(plan.needed)
        finally:
            self._desk.decide(names)

    def clean_up(self) -> None:
        """Clean up once every worker has gone: until then a test may still use something."""
        plan = lookup.peek(self._config)
        if plan is not None and plan.host.is_open:
            self._wait_for_workers()
        super().clean_up()

    def _variables(self) -> dict[str, str]:
        plan = lookup.peek(self._config)
        if plan is None or not plan.host.has_begun:
            return {}
        return plan.host.run.services.variables.current()

    def _open_desk(self) -> None:
        if self._desk is not None:
            return
        from pytest_plan.plugin.endpoint import Desk
        from pytest_plan.plugin.gate import Gate
        from pytest_plan.plugin.shared import SharedStore

        plan = lookup.of(self._config)
        assert isinstance(plan.store, SharedStore)
        self._config.pluginmanager.register(Gate(plan), "pytest_plan_gate")
        self._desk = Desk(plan.host, plan.store)

    def _refuse_bare_worker(self, endpoint: Any) -> None:
        plan = lookup.peek(self._config)
        if endpoint.pid is None and plan is not None and plan.plan.declared:
            raise pytest.UsageError(
                f"worker {endpoint.worker!r} has not loaded pytest-plan: "
                "install it for the worker's interpreter, too"
            )

    def _load_conftests(self, files: list[str]) -> None:
        """Load the conftests of sub-directories, which a controller does not see by itself."""
        config = self._config
        for file in files:
            # Not public; without it a step of such a conftest is unknown here, and said to be.
            load = getattr(config.pluginmanager, "_loadconftestmodules", None)
            if load is None:
                continue
            try:
                load(
                    config.rootpath / file,
                    config.getoption("importmode"),
                    config.rootpath,
                    consider_namespace_packages=config.getini("consider_namespace_packages"),
                )
            except Exception as error:
                raise pytest.UsageError(
                    f"the controller cannot load {file}, where a needed step is: {error}"
                ) from error

    def _wait_for_workers(self) -> None:
        deadline = time.monotonic() + _GRACE
        for node, endpoint in self._endpoints.items():
            if endpoint.gone.wait(max(0.0, deadline - time.monotonic())):
                continue
            if endpoint.pid is not None and node.gateway.spec.popen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(endpoint.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
                endpoint.gone.wait(_KILL_WAIT)
