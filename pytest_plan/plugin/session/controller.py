"""Provisions the plan once for all workers, in the controller of pytest-xdist."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import describe
from pytest_plan.engine.processes.addresses import is_loopback, network
from pytest_plan.plugin.compat import pytest_internals, xdist_internals
from pytest_plan.plugin.interface.options import Settings
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.owner import Owner
from pytest_plan.plugin.xdist import roles

if TYPE_CHECKING:
    from pytest_plan.plugin.compat.xdist_internals import StartBarrier
    from pytest_plan.plugin.run.host import Host
    from pytest_plan.plugin.xdist.server import Answers, Server

_BROKEN = "test collection failed; fix the errors, or run with --continue-on-collection-errors"
_GRACE = 3.0  # seconds that workers may take to end before cleanup
_KILL_WAIT = 1.0
_POLL = 0.2
_SILENCE = 4.0  # seconds after the limit for a worker to report that it is ending or stuck


class Controller(Owner):
    """Provisions as soon as the first worker has sent the steps that its tests need."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        super().__init__(config, settings)
        self._servers: dict[Any, Server] = {}  # by node
        self._answers: Answers | None = None
        self._scheduler: Any = None
        self._barrier: StartBarrier | None = None
        self._watcher: threading.Thread | None = None
        self._done = threading.Event()
        self._ended: dict[Any, str] = {}  # why, by the node of a worker that did not end
        self._lost: str | None = None  # which worker could not be replaced, and why
        self._warned: set[str] = set()  # the steps of which `_warn_of_loopback` has warned

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_newgateway(self) -> None:
        """Import the rest while the first worker boots, although this delays later workers."""
        if self._servers:
            self._prepare()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give each worker, including replacements for crashed workers, its own channel."""
        from pytest_plan.plugin.xdist.server import Server

        pytest_internals.append_to_log_file(self._config)
        channel = node.gateway.newchannel()
        self._servers[node] = Server(node.gateway.id, channel, lambda: self._answers)
        node.workerinput[roles.CHANNEL] = channel
        node.workerinput[roles.ENVIRON] = self._variables()
        plan_session = lookup.peek(self._config)
        if plan_session is not None and plan_session.host.has_begun:
            _guard(plan_session.host, node)

    @pytest.hookimpl(optionalhook=True, wrapper=True)
    def pytest_xdist_make_scheduler(self) -> Generator[None, Any, Any]:
        """Remember xdist's scheduler."""
        self._scheduler = yield
        return self._scheduler

    def run_tests(self, session: pytest.Session) -> Generator[None, object, object]:
        """Fail the session if xdist gave up before any test ran, because xdist reports success."""
        self._prepare()  # with a single worker, pytest_xdist_newgateway has not called it
        try:
            result = yield
        except RuntimeError as error:
            # At one point in `Condition.wait`, a KeyboardInterrupt becomes a RuntimeError, because
            # it releases a lock that is not held.
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None
            if self._lost is None:
                raise
            # xdist has no workers left.
            if self._scheduler.tests_finished:
                return True
            raise _failed(
                session, f"{self._lost}; the tests that were left for it were not run"
            ) from None
        if self._barrier is not None and not self._barrier.is_open:
            text = f"worker {self._barrier.lost!r} died before the tests began: no test was run"
            raise _failed(session, text)
        return result

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_node_collection_finished(self, node: Any) -> None:
        """Provision the steps that this worker's tests need while other workers still boot."""
        server = self._servers[node]
        needs = server.take_needs()
        if needs is None:
            self._refuse_bare_worker(server)
            return
        if needs["error"] is not None:
            raise pytest.UsageError(needs["error"])
        plan_session = lookup.of(self._config, self._settings)
        for file in needs["conftests"]:
            # The controller collects nothing, so pytest has not loaded the conftests of
            # subdirectories.
            pytest_internals.load_conftest(self._config, file)
        declared = plan_session.declared
        declared.include(self._folder(file) for file in needs["conftests"])
        answers = self._start_answering()
        if not plan_session.host.has_begun:
            for each in self._servers:
                _guard(plan_session.host, each)
        names = needs["needs"]
        try:
            steps = declared.steps
            declared.check(steps)
            if needs["broken"]:
                plan_session.host.refuse(_BROKEN)
            else:
                known = [name for name in names if name in steps]
                declared.needed = declared.to_run(known, steps)
            plan_session.host.provision(declared.needed or ())
        finally:
            if plan_session.host.has_begun:
                answers.decide(names)
        plan_session.host.report_failures(before_tests=True)
        self._watch_limit(plan_session.host)
        if server.network != network():
            self._warn_of_loopback(plan_session.host, server, names)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, report: pytest.TestReport) -> None:
        """Say in the report of a test that its worker did not end, and what became of it."""
        reason = self._ended.get(getattr(report, "node", None))
        if reason is not None:
            report.longrepr = f"{report.longrepr}\n{reason}"

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Report a worker that did not end, although it may not have been running a test."""
        if node in self._ended:
            self._say(self._ended[node])

    @pytest.hookimpl(specname="pytest_keyboard_interrupt", tryfirst=True)
    def end_tests(self) -> None:
        """Stop the workers immediately; execnet alone would give them five seconds."""
        for server in self._servers.values():
            server.stop()

    def clean_up(self, *, failed: bool | None = None) -> None:
        """Clean up once every worker has ended; until then, a test may use the environment."""
        plan_session = lookup.peek(self._config)
        if plan_session is not None and plan_session.host.is_open:
            self._wait_for_workers()
        super().clean_up(failed=failed)

    def _folder(self, conftest: str) -> tuple[str, ...]:
        return Path(os.path.normpath(self._config.rootpath / conftest)).parent.parts

    def _prepare(self) -> None:
        plan_session = lookup.peek(self._config)
        if plan_session is not None:
            plan_session.host.prepare()

    def _watch_limit(self, host: Host) -> None:
        if self._watcher is None and host.remaining() is not None:
            self._watcher = threading.Thread(
                target=self._end_stuck_workers, args=(host,), name="plan-limit", daemon=True
            )
            self._watcher.start()
            self._config.add_cleanup(self._done.set)

    def _end_stuck_workers(self, host: Host) -> None:
        """Once the limit has been reached, kill each worker whose test does not end."""
        while left := host.remaining() or 0.0:
            if self._done.wait(min(left, _POLL)):
                return
        silent_until = SystemClock.now() + _SILENCE
        while not self._done.wait(_POLL):
            for node, server in list(self._servers.items()):
                is_silent = SystemClock.now() > silent_until and not server.is_ending
                if server.stuck is not None or is_silent:
                    self._end_stuck(node, server)

    def _end_stuck(self, node: Any, server: Server) -> None:
        """Kill a worker that did not end by itself, or give up one that cannot be killed."""
        if server.gone.is_set() or node in self._ended:
            return
        xdist_internals.start_no_more_workers(self._config)
        is_ours = xdist_internals.pid_of(node) == server.pid
        fate = "it was killed" if is_ours else _advice(server)
        self._ended[node] = (
            f"worker {server.worker!r} did not end after the plan's limit had passed; {fate}"
        )
        xdist_internals.kill(node)
        if not server.gone.wait(_KILL_WAIT) and not is_ours:
            xdist_internals.give_up(node)

    def _variables(self) -> dict[bytes, bytes]:
        plan_session = lookup.peek(self._config)
        variables = {} if plan_session is None else plan_session.host.variables()
        return {os.fsencode(name): os.fsencode(value) for name, value in variables.items()}

    def _start_answering(self) -> Answers:
        if self._answers is not None:
            return self._answers
        from pytest_plan.plugin.items.gate import Gate
        from pytest_plan.plugin.xdist.server import Answers
        from pytest_plan.plugin.xdist.shared_store import SharedStore

        plan_session = lookup.of(self._config)
        assert isinstance(plan_session.store, SharedStore)
        host = plan_session.host
        gate = Gate(self._config, plan_session.verdict, host.has_failed, plan_session.loss)
        self._config.pluginmanager.register(gate, "pytest_plan_gate")
        self._answers = Answers(plan_session.host, plan_session.store, plan_session.logs())
        host.watching.on_loss = self._tell_losses
        xdist_internals.replace_reachable_workers(self._config, self._go_on_without)
        for node in self._servers:
            xdist_internals.ignore_send_errors(node)
        self._barrier = xdist_internals.hold_tests(
            self._scheduler, lambda node: _is_gone(node, self._servers[node])
        )
        return self._answers

    def _tell_losses(self) -> None:
        """Let every worker know at once which steps are lost."""
        assert self._answers is not None
        losses = self._answers.losses()
        for server in list(self._servers.values()):
            server.lost(losses)

    def _go_on_without(self, node: Any, error: Exception) -> None:
        """Report a worker that cannot be replaced; tests that were left for it may never begin."""
        server = self._servers[node]
        text = (
            f"worker {server.worker!r} is lost, and there is no way to start another one on "
            f"{server.host!r} ({describe(error)})"
        )
        if self._session is not None and self._barrier is not None and not self._barrier.is_open:
            raise _failed(self._session, f"{text}; no test was run")
        self._lost = text
        self._say(text)

    def _warn_of_loopback(self, host: Host, server: Server, names: Iterable[str]) -> None:
        """Warn once of each step that gives a loopback address to a worker on another machine."""
        assert self._answers is not None
        address = host.run.facts.host
        cure = f"let the step use ctx.host, which is {address!r}"
        if is_loopback(address):
            cure = (
                "let the step use ctx.host, as the ready-made steps do, and run pytest with "
                "--plan-host and an address of this machine that the worker can reach"
            )
        for step, (part, found) in self._answers.loopback(names).items():
            if step not in self._warned:
                self._warned.add(step)
                pytest_internals.warn(
                    self._config,
                    f"the {part} of step {step!r} contains {found!r}, which is another machine for "
                    f"worker {server.worker!r} on {server.host!r}: {cure}",
                )

    def _refuse_bare_worker(self, server: Server) -> None:
        plan_session = lookup.peek(self._config)
        has_steps = plan_session is not None and plan_session.declared.definition.steps
        if has_steps and server.pid is None:
            raise pytest.UsageError(
                f"worker {server.worker!r} has not loaded pytest-plan: "
                "install it for the worker's interpreter as well"
            )

    def _wait_for_workers(self) -> None:
        deadline = SystemClock.now() + _GRACE
        xdist_internals.end_workers(self._config, _GRACE)
        for node, server in self._servers.items():
            if server.gone.wait(max(0.0, deadline - SystemClock.now())):
                continue
            xdist_internals.kill(node)
            if not server.gone.wait(_KILL_WAIT) and node not in self._ended:
                self._say(f"worker {server.worker!r} did not end; {_advice(server)}")

    def _say(self, text: str) -> None:
        plan_session = lookup.peek(self._config)
        if plan_session is not None:
            plan_session.host.foreground.say(text, bad=True)


def _failed(session: pytest.Session, text: str) -> Exception:
    """Return the exception that ends the session, with a text for pytest's last lines."""
    session.shouldfail = text
    return session.Failed(text)


def _is_gone(node: Any, server: Server) -> bool:
    # execnet reports that a worker has ended only some time after its process has exited.
    return server.gone.is_set() or xdist_internals.has_exited(node)


def _guard(host: Host, node: Any) -> None:
    from pytest_plan.engine.processes.identity import identify

    pid = xdist_internals.pid_of(node)
    if pid is not None:
        host.guard(identify(pid))


def _advice(server: Server) -> str:
    # Only a process on this machine, which this process has started, can be killed for certain.
    where = f"process {server.pid} on {server.host or 'its host'}"
    return f"if {where} is still running, end it, because it may use the environment"
