"""The plan in the controller of pytest-xdist: provisioned once, for all workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_plan.plugin.compat import pytest_internals, xdist_internals
from pytest_plan.plugin.options import Settings
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.owner import Owner
from pytest_plan.plugin.xdist import roles

if TYPE_CHECKING:
    from pytest_plan.plugin.compat.xdist_internals import StartBarrier
    from pytest_plan.plugin.run.host import Host

_GRACE = 3.0  # seconds that workers may take to go before cleanup
_KILL_WAIT = 1.0
_POLL = 0.2
_SILENCE = 5.0  # seconds after the limit in which a worker must say that it ends, or that it cannot


class Controller(Owner):
    """Provisions as soon as the first worker says what its tests need."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        super().__init__(config, settings)
        self._endpoints: dict[Any, Any] = {}  # by node
        self._desk: Any = None
        self._scheduler: Any = None
        self._barrier: StartBarrier | None = None
        self._watcher: threading.Thread | None = None
        self._done = threading.Event()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_newgateway(self) -> None:
        """Use the time in which the first worker boots; those after it may come a little later."""
        if self._endpoints:
            self._prepare()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give each worker, clones of crashed ones included, its own channel."""
        from pytest_plan.plugin.xdist.server import Endpoint

        channel = node.gateway.newchannel()
        self._endpoints[node] = Endpoint(node.gateway.id, channel, lambda: self._desk)
        node.workerinput[roles.CHANNEL] = channel
        node.workerinput[roles.ENVIRON] = self._variables()

    @pytest.hookimpl(optionalhook=True, wrapper=True)
    def pytest_xdist_make_scheduler(self) -> Generator[None, Any, Any]:
        """Remember xdist's scheduler."""
        self._scheduler = yield
        return self._scheduler

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Say so when xdist gave up before any test ran: it would call the run green."""
        self._prepare()  # there may be one worker alone
        try:
            result = yield
        except RuntimeError as error:
            # Interrupted at one point of `Condition.wait` a lock is released that is not held.
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None
            raise
        if self._barrier is not None and not self._barrier.is_open:
            text = f"worker {self._barrier.lost!r} died before the tests began: no test was run"
            session.shouldfail = text
            raise session.Failed(text)
        return result

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
        for file in needs["conftests"]:
            # A controller sees no conftest of a sub-directory by itself.
            pytest_internals.load_conftest(self._config, file)
        self._open_desk()
        names = needs["needs"]
        try:
            declared = plan.declared
            steps = declared.steps
            declared.check(steps)
            declared.needed = declared.to_run([name for name in names if name in steps], steps)
            plan.host.provision(declared.needed)
        finally:
            self._desk.decide(names)
        self._watch_limit(plan.host)

    @pytest.hookimpl(specname="pytest_keyboard_interrupt", tryfirst=True)
    def pytest_keyboard_interrupt_stop(self) -> None:
        """Let the workers end at once; execnet alone gives them five seconds."""
        for endpoint in self._endpoints.values():
            endpoint.stop()

    def clean_up(self) -> None:
        """Clean up once every worker has gone: until then a test may still use something."""
        plan = lookup.peek(self._config)
        if plan is not None and plan.host.is_open:
            self._wait_for_workers()
        super().clean_up()

    def _prepare(self) -> None:
        plan = lookup.peek(self._config)
        if plan is not None:
            plan.host.prepare()

    def _watch_limit(self, host: Host) -> None:
        if self._watcher is None and host.remaining() is not None:
            self._watcher = threading.Thread(
                target=self._end_stuck_workers, args=(host,), name="plan-limit", daemon=True
            )
            self._watcher.start()
            self._config.add_cleanup(self._done.set)

    def _end_stuck_workers(self, host: Host) -> None:
        """Once the limit has passed, kill workers whose test does not end."""
        while left := host.remaining() or 0.0:
            if self._done.wait(min(left, _POLL)):
                return
        silent_until = time.monotonic() + _SILENCE
        while not self._done.wait(_POLL):
            for node, endpoint in list(self._endpoints.items()):
                is_silent = time.monotonic() > silent_until and not endpoint.is_ending
                if endpoint.stuck is not None or is_silent:
                    xdist_internals.start_no_more_workers(self._config)
                    _kill(node, endpoint)

    def _variables(self) -> dict[str, str]:
        plan = lookup.peek(self._config)
        if plan is None or not plan.host.has_begun:
            return {}
        return plan.host.run.facts.variables.current()

    def _open_desk(self) -> None:
        if self._desk is not None:
            return
        from pytest_plan.plugin.items.gate import Gate
        from pytest_plan.plugin.xdist.server import Desk
        from pytest_plan.plugin.xdist.shared_store import SharedStore

        plan = lookup.of(self._config)
        assert isinstance(plan.store, SharedStore)
        self._config.pluginmanager.register(Gate(plan.verdict), "pytest_plan_gate")
        self._desk = Desk(plan.host, plan.store)
        for node in self._endpoints:
            xdist_internals.ignore_send_errors(node)
        self._barrier = xdist_internals.hold_tests(
            self._scheduler, lambda node: _is_gone(node, self._endpoints[node])
        )

    def _refuse_bare_worker(self, endpoint: Any) -> None:
        plan = lookup.peek(self._config)
        if endpoint.pid is None and plan is not None and plan.declared.plan.declared:
            raise pytest.UsageError(
                f"worker {endpoint.worker!r} has not loaded pytest-plan: "
                "install it for the worker's interpreter, too"
            )

    def _wait_for_workers(self) -> None:
        deadline = time.monotonic() + _GRACE
        for node, endpoint in self._endpoints.items():
            if endpoint.gone.wait(max(0.0, deadline - time.monotonic())):
                continue
            _kill(node, endpoint)
            endpoint.gone.wait(_KILL_WAIT)


def _is_gone(node: Any, endpoint: Any) -> bool:
    # execnet tells of the end of a worker only later.
    return endpoint.gone.is_set() or xdist_internals.has_exited(node)


def _kill(node: Any, endpoint: Any) -> None:
    if not endpoint.gone.is_set():
        xdist_internals.kill(node)
