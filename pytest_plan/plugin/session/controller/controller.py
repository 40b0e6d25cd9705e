"""Provisions the plan once for all workers, in the controller of pytest-xdist."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import describe
from pytest_plan.plugin.compat import pytest_internals, xdist_internals
from pytest_plan.plugin.interface.options import Settings
from pytest_plan.plugin.session import lookup
from pytest_plan.plugin.session.controller.ending import Ending
from pytest_plan.plugin.session.owner import Owner
from pytest_plan.plugin.xdist import roles
from pytest_plan.plugin.xdist.scheduling.scheduling import in_waves, is_usable

if TYPE_CHECKING:
    from pytest_plan.plugin.compat.xdist_internals import StartBarrier
    from pytest_plan.plugin.run.host import Host
    from pytest_plan.plugin.session.controller.machines import LoopbackWarnings
    from pytest_plan.plugin.session.controller.provisioning import Provisioning
    from pytest_plan.plugin.session.session import PlanSession
    from pytest_plan.plugin.xdist.scheduling.scheduling import NewStage, WaveScheduling
    from pytest_plan.plugin.xdist.server import Answers, Server

_BROKEN = "test collection failed; fix the errors, or run with --continue-on-collection-errors"


class Controller(Owner):
    """Provisions as soon as the first worker has sent the steps that its tests need."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        super().__init__(config, settings)
        self._servers: dict[Any, Server] = {}  # by node
        self._answers: Answers | None = None
        self._made: list[Any] = []  # the schedulers that the user's --dist or plugin has made
        self._staged: WaveScheduling | None = None  # None if the first of them is unusable
        self._has_warned = False
        self._barrier: StartBarrier | None = None
        self._provisioning: Provisioning | None = None
        self._lost: str | None = None  # which worker could not be replaced, and why
        self._loopback: LoopbackWarnings | None = None
        self._ending = Ending(config, self._servers, self._say)
        config.pluginmanager.register(self._ending, "pytest_plan_ending")

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
        plan_session = lookup.peek(self._config)
        alias = node.gateway.id
        if self._settings.reuse or self._settings.share is not None:
            alias = lookup.of(self._config, self._settings).continued.by(alias)
        self._servers[node] = Server(node.gateway.id, channel, lambda: self._answers, alias)
        node.workerinput[roles.CHANNEL] = channel
        variables = self._variables()
        hidden = set() if self._provisioning is None else self._provisioning.hidden(variables)
        node.workerinput[roles.ENVIRON] = {
            os.fsencode(name): os.fsencode(value)
            for name, value in variables.items()
            if name not in hidden
        }
        node.workerinput[roles.HIDDEN] = [os.fsencode(name) for name in hidden]
        node.workerinput[roles.EACH] = self._config.option.dist == "each"
        node.workerinput[roles.WORKER] = alias
        if plan_session is not None and plan_session.host.has_begun:
            _guard(plan_session.host, node)

    @pytest.hookimpl(optionalhook=True, wrapper=True)
    def pytest_xdist_make_scheduler(self, log: Any) -> Generator[None, Any, Any]:
        """Let the scheduler that the user has chosen work wave by wave, if there are waves."""
        self._made.append((yield))
        if len(self._made) == 1 and is_usable(self._made[0]):
            each = self._config.option.dist == "each"
            self._staged = in_waves(self._made[0], lambda: self._make_scheduler(log), each=each)
            self._staged.begin = self._begin_stage
            self._staged.is_gone = lambda node: _is_gone(node, self._servers[node])
            return self._staged
        return self._made[-1]

    def _make_scheduler(self, log: Any) -> Any:
        """Return another scheduler of the kind that the user has chosen, for the next wave."""
        made = self._config.hook.pytest_xdist_make_scheduler(config=self._config, log=log)
        if not is_usable(made) or any(made is other for other in self._made[:-1]):
            raise self._unusable(made)
        return made

    def _unusable(self, scheduler: object) -> pytest.UsageError:
        plan_session = lookup.peek(self._config)
        steps = {} if plan_session is None else plan_session.declared.steps
        waiting = [
            f"{name!r} ({step.origin})" for name, step in steps.items() if step.options.after_tests
        ]
        why = f"steps wait for tests: {', '.join(waiting)}" if waiting else "tests must run alone"
        if self._settings.overlap and not waiting:
            why = f"{self._settings.sources['overlap']} gives tests out in waves"
        return pytest.UsageError(
            f"{why}; for that, pytest_xdist_make_scheduler must return a new scheduler with "
            f"pytest-xdist's whole protocol at each call, which {type(scheduler).__name__} is not: "
            "run without it, or without -n"
        )

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
            if (self._staged or self._made[0]).tests_finished:
                return True
            raise _failed(
                session, f"{self._lost}; the tests that were left for it were not run"
            ) from None
        if self._barrier is not None and not self._barrier.is_open:
            text = f"worker {self._barrier.lost!r} died before the tests began: no test was run"
            raise _failed(session, text)
        plan_session, scheduling = lookup.peek(self._config), self._staged
        # Tests are left if workers have died and are not replaced.
        if plan_session is not None and scheduling is not None and scheduling.is_over:
            self._finish_steps(plan_session)
        return result

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_node_collection_finished(self, node: Any) -> None:
        """Provision the steps that this worker's tests need while other workers still boot."""
        server = self._servers[node]
        needs = server.take_needs()
        self._announce_waves(node, server)
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
        self._start_answering()
        if not plan_session.host.has_begun:
            for each in self._servers:
                _guard(plan_session.host, each)
        assert self._provisioning is not None
        provisioning = self._provisioning
        if provisioning.provision_for_clone(server.alias, needs["needs"]):
            return
        servers = self._servers.items()
        provisioning.find_workers([one.alias for node, one in servers if not _is_gone(node, one)])
        try:
            steps = declared.steps
            declared.check(steps)
            provisioning.needs.update(declared.everywhere(needs["needs"], steps))
            declared.selection.rank_steps(steps)
            if self._staged is not None and declared.selection.opened is None:
                declared.selection.opened = self._staged.first_rank()
            if needs["broken"]:
                plan_session.host.refuse(_BROKEN)
            else:
                known = [name for name in provisioning.needs if name in steps]
                declared.needed = declared.to_run(known, steps)
                declared.selection.add(needs["by_rank"])
            provisioning.provision(declared.due())
        finally:
            provisioning.decide()
        plan_session.host.report_failures(before_tests=True)
        self._ending.watch_limit(plan_session.host)
        self._warn_of_loopback()

    def _finish_steps(self, plan_session: PlanSession) -> None:
        if self._provisioning is None:
            plan_session.provision_rest()
        else:
            self._provisioning.finish()

    def _announce_waves(self, node: Any, server: Server) -> None:
        """Pass on in which parts a worker runs its tests."""
        if not server.waves:
            return
        if self._staged is None:
            waits = self._settings.overlap and server.waits
            if len(server.waves) > 1 or waits or any(alone for _, alone, _ in server.waves):
                raise self._unusable(self._made[0])
            return
        xdist_internals.ignore_send_errors(node)
        combinations, numbers = server.waits or ((), ())
        needs = [combinations[number] for number in numbers]
        self._staged.announce(node, server.waves, needs)
        if self._config.option.dist == "each" and any(alone for _, alone, _ in server.waves):
            self._warn_of_each()

    def _warn_of_each(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            text = (
                "tests marked plan_alone do not run alone with --dist each, which runs them in "
                "all workers at the same time: use another --dist, or one worker"
            )
            pytest_internals.warn(self._config, text)

    def _begin_stage(self, opening: NewStage) -> None:
        """Provision what the tests of a stage need; all tests of the stages before have ended."""
        plan_session = lookup.peek(self._config)
        if plan_session is None or self._provisioning is None:
            return
        if plan_session.host.remaining() == 0:
            self._end_at_limit()
        rank, ranks = opening.rank, opening.ranks
        from pytest_plan.plugin.items.stages import Stage

        try:
            stage = Stage(rank, ranks.index(rank) + 1, len(ranks), opening.ended)
            servers = self._servers.items()
            gone = {server.alias for node, server in servers if _is_gone(node, server)}
            plan_session.begin_stage(stage, self._provisioning.provision, gone)
        finally:
            self._provisioning.decide()
        self._warn_of_loopback()

    def _end_at_limit(self) -> NoReturn:
        """End the session where a stage would begin, as workers do where a test would begin."""
        assert self._session is not None
        text = f"the plan's limit of {format_duration(self._settings.limit or 0.0)} has passed"
        self._session.shouldfail = text
        raise self._session.Failed(text)

    @pytest.hookimpl(specname="pytest_keyboard_interrupt", tryfirst=True)
    def end_tests(self) -> None:
        """Stop the workers immediately; execnet alone would give them five seconds."""
        for server in self._servers.values():
            server.stop()

    def clean_up(self, *, failed: bool | None = None) -> None:
        """Clean up once every worker has ended; until then, a test may use the environment."""
        plan_session = lookup.peek(self._config)
        if plan_session is not None and plan_session.host.is_open:
            if self._provisioning is not None and self._session is not None:
                self._provisioning.stop(self._session)
            self._ending.end_all()
        super().clean_up(failed=failed)

    def _folder(self, conftest: str) -> tuple[str, ...]:
        return Path(os.path.normpath(self._config.rootpath / conftest)).parent.parts

    def _prepare(self) -> None:
        plan_session = lookup.peek(self._config)
        if plan_session is not None:
            plan_session.host.prepare()

    def _variables(self) -> Mapping[str, str]:
        plan_session = lookup.peek(self._config)
        return {} if plan_session is None else plan_session.host.variables()

    def _start_answering(self) -> Answers:
        if self._answers is not None:
            return self._answers
        from pytest_plan.plugin.items.gate import Gate
        from pytest_plan.plugin.session.controller.provisioning import Provisioning
        from pytest_plan.plugin.xdist.server import Answers
        from pytest_plan.plugin.xdist.shared_store import SharedStore

        plan_session = lookup.of(self._config)
        assert isinstance(plan_session.store, SharedStore)
        host = plan_session.host
        gate = Gate(self._config, plan_session.verdict, host.has_failed, plan_session.loss)
        self._config.pluginmanager.register(gate, "pytest_plan_gate")
        self._answers = Answers(plan_session.host, plan_session.store, plan_session.logs())
        self._provisioning = Provisioning(plan_session, self._answers, self._staged, self._servers)
        xdist_internals.replace_reachable_workers(self._config, self._go_on_without)
        for node in self._servers:
            xdist_internals.ignore_send_errors(node)
        self._barrier = xdist_internals.hold_tests(
            self._staged or self._made[0], lambda node: _is_gone(node, self._servers[node])
        )
        return self._answers

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

    def _warn_of_loopback(self) -> None:
        assert self._answers is not None
        assert self._provisioning is not None
        if self._loopback is None:
            from pytest_plan.plugin.session.controller.machines import LoopbackWarnings

            self._loopback = LoopbackWarnings(self._config, self._answers)
        self._loopback.warn(self._servers.values(), self._provisioning.needs)

    def _refuse_bare_worker(self, server: Server) -> None:
        plan_session = lookup.peek(self._config)
        has_steps = plan_session is not None and plan_session.declared.definition.steps
        if has_steps and server.pid is None:
            raise pytest.UsageError(
                f"worker {server.worker!r} has not loaded pytest-plan: "
                "install it for the worker's interpreter as well"
            )

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
