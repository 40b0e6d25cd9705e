"""The controller's end of the channel to one worker: answers the worker's requests.

`Server.receive` runs in execnet's receiver thread, which also delivers the worker's test reports.
It therefore only looks up and sends answers. It never raises, because an exception would close the
channel.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_plan.engine.model.errors import StateError, describe, picklable
from pytest_plan.engine.processes.addresses import loopback_in
from pytest_plan.plugin.items.verdict import Verdict
from pytest_plan.plugin.xdist.pending import PendingRequest
from pytest_plan.plugin.xdist.wire import received, send, texts_in

if TYPE_CHECKING:
    from pytest_plan.engine.model.results import StepResult
    from pytest_plan.plugin.items.logs import RunLogs
    from pytest_plan.plugin.run.host import Host
    from pytest_plan.plugin.xdist.shared_store import SharedStore

_NOT_BEGUN = "the plan has not begun: its State and its steps are not available yet"
_NOTICE_WAIT = 1.0  # seconds, because no tests may be running


class Answers:
    """The facts that workers can ask for once the plan has begun.

    Args:
        host: the run of the plan.
        store: the store of the State.
        logs: the logs of the steps.

    Attributes:
        results: a pickle of the results of the steps when tests could last be decided.
        progress: what the steps have come to so far if tests run while they do; otherwise None.
    """

    def __init__(self, host: Host, store: SharedStore, logs: RunLogs) -> None:
        self.host = host
        self.store = store
        self.logs = logs
        # Only the main thread replaces these, in `decide`; readers need no lock.
        self._verdicts: Mapping[str, Verdict | None] | None = None
        self.results = pickle.dumps({})
        self.progress: History | None = None

    def decide(self, names: Iterable[str]) -> None:
        """Decide whether tests that need these steps can run, and answer the waiting requests."""
        if self.progress is None:
            self.results = pickle.dumps(dict(self.host.results()))
        else:
            self.progress.note(self.host.results())
        self._verdicts = {
            name: self.host.verdict_on(name) for name in (*(self._verdicts or ()), *names)
        }
        self.store.pending.answer_ready()

    def about(self, names: list[str], worker: str) -> bytes | None:
        """Return what a worker needs to know before a test, or None while a step is undecided.

        The answer is a pickle of the verdicts on these steps, the environment variables that steps
        have set for all tests of the worker, those for the tests that need one of these steps, the
        seconds left until the limit, the values of these steps, for forked copies of the worker,
        the id of the run, the name of its environment, the private files of the logs of these steps
        and of those that they need, and the steps whose variables these are if not of all.
        """
        verdicts = self._verdicts
        if verdicts is None or any(name not in verdicts for name in names):
            return None
        host = self.host
        seen: set[str] = set() if self.progress is None else self._with_needs(names)
        variables = host.variables(worker) if self.progress is None else self._set(seen, worker)
        of_tests = {name: found for name in names if (found := host.test_variables([name]))}
        has_losses = host.watching.has_losses
        decided = {name: host.verdict_on(name) if has_losses else verdicts[name] for name in names}
        values = self.store.steps_data(names)
        facts = (host.remaining(), values, host.run_id, host.environment)
        about = self.logs.sources(names), {host.run.step_runs[one].planned.template for one in seen}
        return pickle.dumps((decided, variables, of_tests, *facts, *about))

    def _with_needs(self, names: Iterable[str]) -> set[str]:
        """Return these steps, and those that they need, directly or not."""
        runs, due, seen = self.host.run.step_runs, list(names), set[str]()
        while due:
            if (name := due.pop()) in runs and name not in seen:
                seen.add(name)
                due += runs[name].planned.needs
        return seen

    def _set(self, seen: Collection[str], worker: str) -> dict[str, str]:
        """Return the variables that these steps have set for the tests of a worker."""
        run = self.host.run
        owners, values = run.facts.variables.owners(), run.facts.variables.current()
        found = {name: value for name, value in values.items() if owners.get(name) in seen}
        for step, name, value in run.facts.instance_variables.current():
            planned = run.step_runs[step].planned
            if step in seen and planned.worker == worker and not planned.choice:
                found[name] = value
        return found

    def loopback(self, names: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Return the steps that give tests a loopback address, each with the part and the address.

        Args:
            names: the steps whose values count; the environment variables of all steps do.
        """
        values = self.store.steps_data(names)
        parts = [
            (name, "value", text)
            for name, value in values.items()
            if isinstance(value, tuple)
            for text in texts_in(value[1])
        ]
        facts = self.host.run.facts
        texts, owners = self.host.variables(), facts.variables.owners()
        variables = [(owners[name], name, text) for name, text in texts.items() if name in owners]
        variables += facts.instance_variables.current()
        parts += [(step, f"environment variable {name!r}", text) for step, name, text in variables]
        found: dict[str, tuple[str, str]] = {}
        for step, part, text in parts:
            if step not in found and (address := loopback_in(text)) is not None:
                found[step] = part, address
        return found

    def losses(self) -> bytes | None:
        """Return a message about the steps that are lost, for `Server.lost`; None if none is.

        It is a pickle of the verdicts on the steps that are lost or need such a step, and of the
        losses, both by the name of the step.
        """
        if not (self.host.watching.has_losses or self.host.has_late_failures):
            return None
        steps = self.host.run.step_runs
        lost = {name: step.lost for name, step in list(steps.items()) if step.lost is not None}
        verdicts = {
            name: self.host.verdict_on(name)
            for name, step in list(steps.items())
            if step.outcome.provides
        }
        return pickle.dumps(({name: one for name, one in verdicts.items() if one}, lost))

    def look(self) -> bytes | None:
        """Look for steps that are lost, for a worker whose test has failed; see `losses`."""
        self.host.look(has_failed=True)
        return self.losses()


class History:
    """What steps have come to, at each moment since the first test could begin.

    Attributes:
        version: how often results have changed.
        unfinished: the steps that have not ended, as tests know them.
        setting: the steps that have set environment variables, as tests know them.
    """

    def __init__(self) -> None:
        self.version = 0
        self.unfinished: list[str] = []
        self.setting: list[str] = []
        # By step: the version since which a result holds, and its pickle. Lists only grow.
        self._results: dict[str, list[tuple[int, bytes]]] = {}
        self._last: dict[str, StepResult] = {}

    def note(self, results: Mapping[str, StepResult]) -> None:
        """Note the results of all steps."""
        version = self.version + 1
        for name, result in results.items():
            if self._last.get(name) is not result:
                self._last[name] = result
                self._results.setdefault(name, []).append((version, pickle.dumps(result)))
        self.version = version

    def results_at(self, version: int) -> bytes:
        """Return a pickle of the pickled results at a version, by name."""
        found = {
            name: [data for since, data in versions if since <= version]
            for name, versions in list(self._results.items())
        }
        return pickle.dumps({name: datas[-1] for name, datas in found.items() if datas})


class Server:
    """Answers the requests of one worker, and stores what the worker has reported.

    Args:
        worker: the worker's id in xdist.
        channel: an execnet channel for this worker alone.
        answers: a function that returns the facts to answer with, or None before the plan has
            begun.
        alias: the worker in the names of the instances that its tests use; "" means its id.

    Attributes:
        waits: the steps for which tests wait, each combination once, and the number of that of each
            test; None if no test waits.
        gone: an event that is set once the worker's process has ended, for any reason.
        pid: the worker's process id; None until the plugin in the worker has sent it.
        host: the name of the machine of the worker; "" until the plugin in it has sent it.
        network: the worker's loopback interface, as `addresses.network` returns it; "" until then.
        stuck: the node id of a test that the worker could not end when the limit was reached; None
            if there is none.
        is_ending: whether the worker will run no more tests.
        waves: the rank of each wave of the worker's tests, whether they run alone, and how many
            they are; empty if there are no waves.
    """

    def __init__(
        self, worker: str, channel: Any, answers: Callable[[], Answers | None], alias: str = ""
    ) -> None:
        self.worker = worker
        self.alias = alias or worker
        self.gone = threading.Event()
        self._noticed = threading.Event()
        self.pid: int | None = None
        self.host = ""
        self.network = ""
        self.stuck: str | None = None
        self.is_ending = False
        self.waves: list[tuple[int, bool, int]] = []
        self.waits: tuple[list[tuple[str, ...]], list[int]] | None = None
        self._channel = channel  # execnet keeps only a weak reference
        self._answers = answers
        self._needs: dict[str, Any] | None = None
        self._acquiring: dict[int, tuple[str, int]] = {}  # receiver thread only
        self._handlers: Mapping[str, Callable[..., Any]] = {
            "read": lambda answers, _, key: (answers.store.read_data(key),),
            "write": lambda answers, _, *write: (answers.store.write_data(*write),),
            "remove": lambda answers, _, key, version: (answers.store.remove(key, version, None),),
            "versions": lambda answers, _: (answers.store.versions(),),
            "snapshot": lambda answers, _: (answers.store.snapshot_data(),),
            "wait": self._wait,
            "try_acquire": self._try_acquire,
            "acquire": self._acquire,
            "release": self._release,
            "forget": self._forget,
            "ensure": self._ensure,
            "verdict": lambda answers, _, name: (pickle.dumps(answers.host.verdict_on(name)),),
            "control": self._control,
            "results": lambda answers, _: (answers.results,),
            "results_at": lambda answers, _, at: (answers.progress.results_at(at),),
            "losses": lambda answers, _: (answers.look(),),
            "run_id": lambda answers, _: (answers.host.run_id,),
            "environment": lambda answers, _: (answers.host.environment,),
            "log_marks": lambda answers, _, steps: (answers.logs.marks(steps),),
            "logs_since": lambda answers, _, marks: ([*map(tuple, answers.logs.since(marks))],),
        }
        channel.setcallback(self.receive, endmarker=None)

    def take_needs(self) -> dict[str, Any] | None:
        """Return what the worker's tests need, or None if nothing was sent since the last call."""
        needs, self._needs = self._needs, None
        return needs

    def stop(self) -> None:
        """Ask the worker to stop now, as after Ctrl-C."""
        self._send(0, True, "stop")

    def notice(self) -> None:
        """Note that pytest-xdist has noticed that the worker has ended."""
        self._noticed.set()

    def lost(self, losses: bytes | None) -> None:
        """Tell the worker which steps are lost, if it listens already; see `Answers.losses`."""
        if self.pid is not None and losses is not None:
            self._send(0, True, losses)

    def progress(self, progress: History | None) -> None:
        """Tell the worker what the steps have come to, if it listens already."""
        if self.pid is not None and progress is not None:
            self._send(0, True, (progress.version, progress.unfinished, progress.setting))

    def receive(self, message: Any) -> None:
        """Handle a message; None means that the worker has ended."""
        if message is None:
            self._end()
            return
        number, what, *arguments = received(message)
        try:
            if (handler := self._handlers.get(what)) is None:
                self._note(what, *arguments)
            elif (answer := handler(self._known(), number, *arguments)) is not None:
                self._send(number, True, answer[0])
        except StateError as error:
            self._send(number, False, str(error))
        except Exception as error:
            self._send(number, False, f"the controller failed at {what!r}: {describe(error)}")

    def _note(self, what: str, *facts: Any) -> None:
        """Note what a worker tells without asking for anything."""
        if what == "hello":
            self.pid, self.host, self.network, *_ = (*facts, "")  # an older version has no network
            if (answers := self._answers()) is not None:
                self.lost(answers.losses())
                self.progress(answers.progress)
        elif what == "need":
            self._needs = facts[0]
        elif what == "waves":
            self.waves, self.waits = facts
        elif what == "stuck":
            self.stuck = facts[0]
        elif what == "ending":
            self.is_ending = True
        else:
            raise ValueError(f"unknown request {what!r}")

    def _known(self) -> Answers:
        if (answers := self._answers()) is None:
            raise StateError(_NOT_BEGUN)
        return answers

    def _wait(self, answers: Answers, number: int, key: str) -> None:
        self._answer_later(answers, number, lambda: answers.store.read_data(key))

    def _try_acquire(self, answers: Answers, number: int, name: str, thread: int) -> tuple[bool]:
        is_taken = answers.store.try_acquire(name, self.worker, thread)
        if is_taken:
            self._acquiring[number] = (name, thread)
        return (is_taken,)

    def _acquire(self, answers: Answers, number: int, name: str, thread: int) -> None:
        store, worker = answers.store, self.worker
        store.refuse_again(name, worker, thread)
        self._acquiring[number] = (name, thread)
        self._answer_later(answers, number, lambda: store.try_acquire(name, worker, thread) or None)

    def _release(self, answers: Answers, number: int, name: str, thread: int) -> tuple[None]:
        answers.store.release_held(name, (self.worker, thread))
        self._acquiring = {
            request: wanted for request, wanted in self._acquiring.items() if wanted[0] != name
        }
        return (None,)

    def _forget(self, answers: Answers, number: int, request: int) -> None:
        name, thread = self._acquiring.pop(request, ("", 0))
        is_answered = not answers.store.pending.forget(self.worker, request)
        if name and is_answered:
            # The lock was granted after the worker had stopped waiting for it.
            answers.store.release_held(name, (self.worker, thread))

    def _ensure(self, answers: Answers, number: int, names: list[str]) -> None:
        self._answer_later(answers, number, lambda: answers.about(names, self.alias))

    def _control(
        self, answers: Answers, number: int, action: str, step: str, name: str | None
    ) -> None:
        """Control a program on a thread, because that takes time; the answer is a pickle."""

        def act() -> None:
            answer: tuple[bool, object]
            try:
                answer = True, answers.host.control(action, step, name)
            except Exception as error:
                answer = False, picklable(error)
            if number:
                self._send(number, True, pickle.dumps(answer))

        threading.Thread(target=act, name="plan-program", daemon=True).start()

    def _answer_later(self, answers: Answers, number: int, ready: Callable[[], Any]) -> None:
        answers.store.pending.add(PendingRequest(self.worker, number, ready, self._send))

    def _send(self, number: int, done: bool, answer: Any) -> None:
        try:
            send(self._channel, (number, done, answer))
        except OSError:
            return  # the worker has ended since its request

    def _end(self) -> None:
        answers = self._answers()
        try:
            if answers is not None and self.is_ending:
                answers.store.free(self.worker)
            elif answers is not None:
                self._lose(answers)
                if answers.host.has_stopped_programs():
                    self._control(answers, 0, "restore", f"@{self.alias}", None)
        finally:
            self.gone.set()

    def _lose(self, answers: Answers) -> None:
        """Release the locks of a lost worker, once pytest-xdist can give its tests to others.

        A worker that waits for a lock and has no further test would otherwise end before that.
        """

        def free() -> None:
            self._noticed.wait(_NOTICE_WAIT)
            answers.store.free(self.worker)

        answers.store.pending.drop(self.worker)
        try:
            threading.Thread(target=free, name="plan-lost-worker", daemon=True).start()
        except RuntimeError:  # there can be no further thread
            answers.store.free(self.worker)
