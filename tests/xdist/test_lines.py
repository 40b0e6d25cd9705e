"""Both ends of the line between controller and worker, stopped at critical moments.

The channels are fakes: they record what is sent, and the tests pass in what is received.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace
from typing import Any, NoReturn, cast

import execnet
import pytest

from pytest_plan import StateError
from pytest_plan.engine.shared.state import State
from pytest_plan.plugin.items.logs import RunLogs
from pytest_plan.plugin.items.verdict import Verdict
from pytest_plan.plugin.run.host import Host
from pytest_plan.plugin.xdist import server
from pytest_plan.plugin.xdist.client import Client
from pytest_plan.plugin.xdist.remote import RemoteStore
from pytest_plan.plugin.xdist.server import Answers, Server
from pytest_plan.plugin.xdist.shared_store import SharedStore
from pytest_plan.plugin.xdist.wire import dump, received, send
from tests.xdist.cluster import wait_until

Message = tuple[Any, ...]
GONE = "the controller of this run has ended"


class Channel:
    """One end of a channel; `sent` contains the sent messages."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.is_closed = False
        self.receive: Callable[[Message | None], None] = lambda _: None

    def setcallback(self, callback: Callable[[Message | None], None], endmarker: None) -> None:
        """Set the function to call with each message."""
        self.receive = callback

    def send(self, message: Message | bytes) -> None:
        """Record the message."""
        if self.is_closed:
            raise OSError("cannot send to a closed channel")
        self.sent.append(received(message))


class Line:
    """A client and a server, each with a receiver thread, as with execnet."""

    def __init__(self, worker: str, answers: Answers) -> None:
        self._ends = Channel(), Channel()
        self._queues: list[queue.SimpleQueue[Message | None]] = []
        for sender, receiver in (self._ends, self._ends[::-1]):
            messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
            self._queues.append(messages)
            setattr(sender, "send", messages.put)  # noqa: B010 - mypy forbids the plain form
            threading.Thread(target=self._deliver, args=(messages, receiver), daemon=True).start()
        self.client = Client(self._ends[0], lambda: None)
        self.server = Server(worker, self._ends[1], lambda: answers)
        self.state = State(RemoteStore(self.client))

    def end(self) -> None:
        """Tell both ends that the other end has closed."""
        for messages in self._queues:
            messages.put(None)

    @staticmethod
    def _deliver(messages: queue.SimpleQueue[Message | None], receiver: Channel) -> None:
        while True:
            message = messages.get()
            receiver.receive(message)
            if message is None:
                return


class StoppingStore(SharedStore):
    """A store that pauses after reading a key until `go_on` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.looked = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def read_data(self, key: str) -> tuple[int, bytes] | None:
        """Read the key, then wait."""
        found = super().read_data(key)
        self.looked.set()
        assert self.go_on.wait(20)
        return found


def _answers(store: SharedStore, verdicts: dict[str, Verdict | None] | None = None) -> Answers:
    known = verdicts or {}
    host = SimpleNamespace(
        results=lambda: {},
        verdict_on=known.__getitem__,
        remaining=lambda: None,
        run_id="r1",
        environment="run-r1",
        variables=lambda worker: {"DB_URL": "tcp://db"},
        test_variables=lambda names: {"KEY": "x"} if names == ["db"] else {},
        has_late_failures=False,
        watching=SimpleNamespace(has_losses=False),
        has_stopped_programs=lambda: False,
    )
    return Answers(cast("Host", host), store, RunLogs(dict, str, "."))


@pytest.fixture
def store() -> StoppingStore:
    """The controller's store of the State."""
    return StoppingStore()


@pytest.fixture
def workers(store: StoppingStore) -> tuple[Server, Server, list[Message], list[Message]]:
    """Two servers, and the answers that each has sent."""
    answers, channels = _answers(store), (Channel(), Channel())
    one, other = (
        Server(f"gw{number}", channel, lambda: answers) for number, channel in enumerate(channels)
    )
    return one, other, channels[0].sent, channels[1].sent


Workers = tuple[Server, Server, list[Message], list[Message]]


def _apart(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


class TestMessages:
    """Messages between the ends."""

    @pytest.mark.parametrize(
        "message",
        [
            (1, "read", "key"),
            (1, "read", "\udc80"),
            (1, "write", "key", b"x" * 100_000, None, []),
            (1, "write", "\udc80", b"x" * 100_000, None, []),
            (1, True, (2, b"x" * 100_000)),
            (1, True, {"\udc80": b"x"}),
        ],
    )
    def test_they_arrive_as_they_were_sent(self, message: Message) -> None:
        """Small and large ones, and text that execnet refuses."""
        assert received(_sent(message)) == message

    def test_a_large_value_is_not_pickled_again(self) -> None:
        """A pickle of a message would copy the pickle of the value, which may have megabytes."""
        assert isinstance(_sent((1, True, (2, b"x" * 100))), bytes)
        assert isinstance(_sent((1, True, (2, b"x" * 100_000))), tuple)


def _sent(message: Message) -> object:
    """Return what execnet sends for a message."""
    sent: list[bytes] = []
    send(SimpleNamespace(send=lambda one: sent.append(execnet.dumps(one))), message)
    return execnet.loads(sent[0])


class TestWaitingForAKey:
    """Requests that cannot be answered yet."""

    def test_answered_in_the_order_of_asking(self, workers: Workers) -> None:
        """A write answers all requests that wait for its key, in order, and no others."""
        one, other, said, told = workers
        one.receive((1, "wait", "key"))
        one.receive((2, "wait", "else"))
        other.receive((1, "wait", "key"))
        assert said == told == []
        other.receive((2, "write", "key", dump("key", "v"), None))
        assert said == [(1, True, (1, dump("key", "v")))]
        assert told == [(1, True, (1, dump("key", "v"))), (2, True, True)]

    def test_write_between_check_and_wait_is_not_missed(
        self, store: StoppingStore, workers: Workers
    ) -> None:
        """A key that is written just after the waiter's check answers the waiter once."""
        one, other, said, _ = workers
        store.go_on.clear()
        waiter = _apart(lambda: one.receive((1, "wait", "key")))
        assert store.looked.wait(20)
        writer = _apart(lambda: other.receive((1, "write", "key", dump("key", 5), None)))
        wait_until(lambda: SharedStore.read_data(store, "key"))
        store.go_on.set()
        waiter.join(20)
        writer.join(20)
        assert said == [(1, True, (1, dump("key", 5)))]

    def test_two_checks_at_once_answer_once(self, store: StoppingStore, workers: Workers) -> None:
        """Two writers that check the waiting requests at the same time send one answer."""
        one, other, said, _ = workers
        one.receive((1, "wait", "key"))
        store.go_on.clear()
        store.looked.clear()
        threads = [
            _apart(lambda: other.receive((1, "write", "key", dump("key", 1), None))),
            _apart(lambda: store.write("unrelated", 1, None, None)),
        ]
        assert store.looked.wait(20)
        store.go_on.set()
        for thread in threads:
            thread.join(20)
        assert [message[0] for message in said] == [1]

    def test_given_up(self, workers: Workers) -> None:
        """A forgotten request gets no answer; another worker's request with that number does."""
        one, other, said, told = workers
        one.receive((1, "wait", "key"))
        other.receive((1, "wait", "key"))
        one.receive((0, "forget", 1))
        other.receive((2, "write", "key", b"", None))
        assert said == []
        assert [message[0] for message in told] == [1, 2]

    def test_worker_gone(self, workers: Workers) -> None:
        """The requests of a worker that has gone are dropped; those of other workers remain."""
        one, other, said, told = workers
        one.receive((1, "wait", "key"))
        other.receive((1, "wait", "key"))
        one.receive(None)
        assert one.gone.is_set()
        assert not other.gone.is_set()
        other.receive((2, "write", "key", b"", None))
        assert said == []
        assert [message[0] for message in told] == [1, 2]

    def test_value_that_cannot_be_pickled_answers_with_the_error(
        self, store: StoppingStore, workers: Workers
    ) -> None:
        """The waiting request gets the error; the writer and later requests are not affected."""
        one, other, said, told = workers
        one.receive((1, "wait", "key"))
        store.write("key", threading.Lock(), None, None)
        ((number, done, text),) = said
        assert (number, done) == (1, False)
        assert "the value of 'key', of type 'lock', cannot be pickled" in text
        other.receive((1, "wait", "key"))
        other.receive((2, "write", "more", b"", None))
        other.receive((3, "acquire", "lock", 7))
        assert [message[:2] for message in told] == [(1, False), (2, True), (3, True)]
        one.receive(None)
        assert one.gone.is_set()


class TestLocks:
    """Locks that threads of workers request and hold."""

    def test_granted_in_the_order_of_asking(self, workers: Workers) -> None:
        """A lock has one holder at a time, and its release grants it to the longest waiter."""
        one, other, said, told = workers
        one.receive((1, "acquire", "lock", 1))
        other.receive((1, "acquire", "lock", 1))
        one.receive((2, "acquire", "lock", 2))
        assert (said, told) == ([(1, True, True)], [])
        one.receive((3, "release", "lock", 1))
        assert told == [(1, True, True)]
        other.receive((2, "release", "lock", 1))
        assert said[-1] == (2, True, True)

    def test_refused_to_the_thread_that_holds_it(self, workers: Workers) -> None:
        """A second request by the holding thread is refused, and the thread keeps the lock."""
        one, _, said, _ = workers
        one.receive((1, "acquire", "lock", 1))
        one.receive((2, "acquire", "lock", 1))
        assert said[1] == (2, False, "lock 'lock' is already held by this thread")

    def test_freed_when_the_loss_of_the_worker_is_noticed(
        self, workers: Workers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The lock of a lost worker goes to another worker, not to another of its own threads.

        It does so once pytest-xdist can give the tests of the lost worker to the other one.
        """
        monkeypatch.setattr(server, "_NOTICE_WAIT", 60.0)
        one, other, said, told = workers
        one.receive((1, "acquire", "lock", 1))
        one.receive((2, "acquire", "lock", 2))
        other.receive((1, "acquire", "lock", 1))
        one.receive(None)
        assert told == []
        one.notice()
        wait_until(lambda: told)
        assert told == [(1, True, True)]
        assert said == [(1, True, True)]

    def test_freed_although_nobody_notices_the_loss(
        self, workers: Workers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Steps that run before or after the tests get the lock of a lost worker."""
        monkeypatch.setattr(server, "_NOTICE_WAIT", 0.0)
        one, other, _, told = workers
        one.receive((1, "acquire", "lock", 1))
        other.receive((1, "acquire", "lock", 1))
        one.receive(None)
        wait_until(lambda: told)
        assert told == [(1, True, True)]

    def test_given_up_while_waiting(self, workers: Workers) -> None:
        """A request that was given up while it waited does not get the lock."""
        one, other, said, told = workers
        one.receive((1, "acquire", "lock", 1))
        other.receive((1, "acquire", "lock", 1))
        other.receive((0, "forget", 1))
        one.receive((2, "release", "lock", 1))
        assert told == []
        one.receive((3, "acquire", "lock", 2))
        assert said[-1] == (3, True, True)

    def test_given_up_when_the_grant_was_on_its_way(self, workers: Workers) -> None:
        """A worker that gave up before the grant reached it does not hold the lock."""
        one, other, said, told = workers
        one.receive((1, "acquire", "lock", 1))
        other.receive((1, "acquire", "lock", 1))
        one.receive((2, "release", "lock", 1))
        assert told == [(1, True, True)]
        other.receive((0, "forget", 1))
        one.receive((3, "acquire", "lock", 1))
        assert said[-1] == (3, True, True)

    def test_giving_up_frees_no_lock_that_was_taken_since(self, workers: Workers) -> None:
        """A late `forget` does not free a lock that another worker has taken in the meantime."""
        one, other, said, told = workers
        one.receive((1, "acquire", "lock", 1))
        one.receive((2, "release", "lock", 1))
        other.receive((1, "acquire", "lock", 1))
        one.receive((0, "forget", 1))
        one.receive((3, "acquire", "lock", 1))
        assert [message[0] for message in said] == [1, 2]
        assert told == [(1, True, True)]


class TestServer:
    """The controller's handling of what it receives."""

    @pytest.mark.parametrize(
        "message",
        [
            (1, "no such thing"),
            (1, "read"),
            (1, "read", "key", "too", "many"),
            (1, "read", []),
            (1, "write", "key", b""),
            (1, "remove", "key", None, None),
            (1, "acquire", {}, 1),
            (1, "verdict", "unknown"),
            (1, "need"),
        ],
    )
    def test_never_raises(self, workers: Workers, message: Message) -> None:
        """A bad request gets an error, because an exception would close the channel."""
        one, _, said, _ = workers
        one.receive(message)
        ((number, done, text),) = said
        assert (number, done) == (1, False)
        assert text.startswith(f"the controller failed at {message[1]!r}: ")
        one.receive((2, "read", "key"))
        assert said[-1] == (2, True, None)

    def test_refuses_before_the_plan_has_begun(self) -> None:
        """A request before the plan has begun gets an error that says so."""
        channel = Channel()
        server = Server("gw0", channel, lambda: None)
        server.receive((1, "read", "key"))
        assert channel.sent == [
            (1, False, "the plan has not begun: its State and its steps are not available yet")
        ]
        server.receive(None)
        assert server.gone.is_set()

    def test_closed_channel_affects_no_other_worker(self, store: StoppingStore) -> None:
        """A closed channel does not affect other workers."""
        answers, channels = _answers(store), [Channel(), Channel()]
        one, other = (Server(str(n), channels[n], lambda: answers) for n in range(2))
        one.receive((1, "wait", "key"))
        channels[0].is_closed = True
        other.receive((1, "write", "key", b"", None))
        assert channels[1].sent == [(1, True, True)]

    def test_needs_are_taken_once(self, workers: Workers) -> None:
        """The needs that a worker sent are returned once and never given to another worker."""
        one, other, _, _ = workers
        one.receive((0, "need", {"needs": ["db"]}))
        assert one.take_needs() == {"needs": ["db"]}
        assert one.take_needs() is None
        assert other.take_needs() is None

    def test_tests_wait_until_their_steps_are_decided(self, store: StoppingStore) -> None:
        """`ensure` is answered, with the variables, when all of its steps are decided."""
        blocked = Verdict(skips=False, reason="no", steps=("db",))
        answers, channel = _answers(store, {"db": blocked, "net": None}), Channel()
        server = Server("gw0", channel, lambda: answers)
        server.receive((1, "ensure", ["net", "db"]))
        answers.decide(["net"])
        assert channel.sent == []
        answers.decide(["db"])
        ((number, done, answer),) = channel.sent
        assert (number, done) == (1, True)
        verdicts = {"net": None, "db": blocked}
        of_tests = {"db": {"KEY": "x"}}
        assert pickle.loads(answer)[:3] == (verdicts, {"DB_URL": "tcp://db"}, of_tests)

    def test_refuses_writes_once_cleanup_has_begun(
        self, store: StoppingStore, workers: Workers
    ) -> None:
        """Once cleanup has begun, writes are refused and reads still work."""
        one, _, said, _ = workers
        one.receive((1, "write", "key", dump("key", 1), None))
        store.close()
        one.receive((2, "write", "key", dump("key", 2), None))
        one.receive((3, "remove", "key", 1))
        one.receive((4, "read", "key"))
        refused = "key 'key' can no longer be written: cleanup has begun"
        assert said[1:] == [
            (2, False, refused),
            (3, False, refused),
            (4, True, (1, dump("key", 1))),
        ]


class TestClient:
    """A worker's handling of answers."""

    @pytest.fixture
    def channel(self) -> Channel:
        """The worker's end of the channel."""
        return Channel()

    @pytest.fixture
    def client(self, channel: Channel) -> Client:
        """A client of that channel."""
        return Client(channel, lambda: None)

    def test_answers_find_their_thread(self, channel: Channel, client: Client) -> None:
        """Each thread gets the answer to its own request, whatever the order of the answers."""
        got: dict[str, Any] = {}

        def ask(what: str) -> None:
            got[what] = client.ask(what)

        threads = [_apart(lambda what=what: ask(what)) for what in "abc"]  # type: ignore[misc]
        wait_until(lambda: len(channel.sent) == 3)
        for number, what in sorted(channel.sent, reverse=True):
            channel.receive((number, True, what * 2))
        for thread in threads:
            thread.join(20)
        assert got == {"a": "aa", "b": "bb", "c": "cc"}

    def test_end_of_the_controller_wakes_everybody(self, channel: Channel, client: Client) -> None:
        """Requests with and without a timeout get an error, and so do later requests."""
        errors: list[str] = []

        def ask(timeout: float | None) -> None:
            with pytest.raises(StateError) as caught:
                client.ask("wait", "key", timeout=timeout)
            errors.append(str(caught.value))

        threads = [_apart(lambda: ask(None)), _apart(lambda: ask(20))]
        wait_until(lambda: len(channel.sent) == 2)
        channel.receive(None)
        for thread in threads:
            thread.join(5)
        assert len(errors) == 2
        channel.is_closed = True
        ask(None)
        assert all(error.startswith(GONE) for error in errors)

    def test_end_of_the_controller_stops_the_tests(
        self, channel: Channel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Later requests fail at once, although execnet may still send. Teardown is not stopped."""
        monkeypatch.setattr("pytest_plan.plugin.xdist.client._GRACE", 0.0)
        stopped: list[bool] = []
        client = Client(channel, lambda: stopped.append(client.ending.is_set()))
        channel.receive(None)
        wait_until(lambda: stopped == [False])
        with pytest.raises(StateError, match=GONE):
            client.ask("read", "key")
        assert channel.sent == []
        client = Client(channel, lambda: stopped.append(client.ending.is_set()))
        client.ending.set()
        channel.receive(None)
        wait_until(lambda: "plan-gone" not in {one.name for one in threading.enumerate()})
        assert stopped == [False]

    def test_thread_that_stops_the_tests_ends_with_the_session(
        self, channel: Channel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker that finishes its session leaves no thread that would still stop its tests."""
        monkeypatch.setattr("pytest_plan.plugin.xdist.client._GRACE", 600.0)
        stopped: list[bool] = []
        client = Client(channel, lambda: stopped.append(True))
        channel.receive(None)
        client.ending.set()
        wait_until(lambda: "plan-gone" not in {one.name for one in threading.enumerate()})
        assert stopped == []

    def test_timeout_notifies_the_controller(self, channel: Channel, client: Client) -> None:
        """When a request times out, the controller is notified and a late answer is dropped."""
        with pytest.raises(TimeoutError):
            client.ask("wait", "key", timeout=0.01)
        number = channel.sent[0][0]
        assert channel.sent[1] == (0, "forget", number)
        channel.receive((number, True, "late"))

    def test_exception_while_waiting_gives_up_the_request(
        self, channel: Channel, client: Client
    ) -> None:
        """An exception raised by a signal handler, such as Ctrl-C, also gives up the request."""

        class OfASignal(BaseException):
            pass

        def send(message: Message | bytes) -> None:
            channel.sent.append(received(message))
            if channel.sent[-1][1] == "acquire":
                raise OfASignal

        setattr(channel, "send", send)  # noqa: B010 - mypy forbids the plain form
        with pytest.raises(OfASignal):
            client.ask("acquire", "lock", 1)
        assert [message[1:] for message in channel.sent[1:]] == [("forget", channel.sent[0][0])]

    def test_a_signal_interrupts_a_wait(self, channel: Channel, client: Client) -> None:
        """Ctrl-C does not have to wait for the answer, which may never come."""

        def interrupt(number: int, frame: FrameType | None) -> NoReturn:
            raise KeyboardInterrupt

        def signal_main() -> None:
            wait_until(lambda: channel.sent)
            signal.pthread_kill(main, signal.SIGUSR1)

        main, before = threading.get_ident(), signal.signal(signal.SIGUSR1, interrupt)
        sending = _apart(signal_main)
        try:
            with pytest.raises(KeyboardInterrupt):
                client.ask("read", "key")
        finally:
            sending.join()
            signal.signal(signal.SIGUSR1, before)
        assert [message[1] for message in channel.sent] == ["read", "forget"]

    def test_refusal_is_a_state_error(self, channel: Channel, client: Client) -> None:
        """A refusal raises a StateError with the controller's message."""
        answered = _apart(
            lambda: wait_until(lambda: channel.sent) and channel.receive((1, False, "no, because"))
        )
        with pytest.raises(StateError, match="no, because"):
            client.ask("write", "key", b"", None)
        answered.join()

    def test_forked_process_is_refused(self, channel: Channel, client: Client) -> None:
        """A forked process sends nothing: its messages would mix with those of its parent."""
        child = os.fork()
        if child == 0:
            status = 1
            try:
                client.ask("read", "key")
            except StateError as error:
                is_refused = "a forked copy of the process" in str(error)
                status = 0 if is_refused and channel.sent == [] else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0


class TestWholeLine:
    """The State through both ends, with receiver threads as with execnet."""

    @pytest.fixture
    def lines(self, store: StoppingStore) -> Iterator[tuple[Line, Line]]:
        """The lines of two workers to one controller."""
        answers = _answers(store)
        lines = Line("gw0", answers), Line("gw1", answers)
        yield lines
        for line in lines:
            line.end()

    def test_controller_and_workers_see_one_state(
        self, store: StoppingStore, lines: tuple[Line, Line]
    ) -> None:
        """A worker reads what a step writes, and a step reads what a worker writes."""
        State(store, writer="db")["db"] = {"port": 1}
        assert lines[0].state["db"] == {"port": 1}
        lines[1].state["key"] = [1]
        assert State(store)["key"] == [1]
        assert lines[0].state.snapshot() == {"db": {"port": 1}, "key": [1]}

    def test_step_and_worker_exclude_each_other(
        self, store: StoppingStore, lines: tuple[Line, Line]
    ) -> None:
        """A step and a test cannot hold the same lock at the same time."""
        state = State(store, writer="db")
        with (
            state.lock("lock"),
            pytest.raises(TimeoutError),
            lines[0].state.lock("lock", timeout=0.05),
        ):
            pass
        with (
            lines[0].state.lock("lock"),
            pytest.raises(TimeoutError),
            state.lock("lock", timeout=0.05),
        ):
            pass
        with state.lock("lock"):
            pass

    def test_no_increment_is_lost(self, store: StoppingStore, lines: tuple[Line, Line]) -> None:
        """No `compare_and_swap` of a step or of a worker's thread is lost."""

        def increment(state: State) -> None:
            for _ in range(50):
                while not state.compare_and_swap("sum", value := state["sum"], value + 1):
                    pass

        states = [State(store), *(line.state for line in lines for _ in range(2))]
        states[0]["sum"] = 0
        threads = [_apart(lambda state=state: increment(state)) for state in states]  # type: ignore[misc]
        for thread in threads:
            thread.join(60)
        assert states[0]["sum"] == 50 * len(states)

    def test_value_is_pickled_once_when_it_is_set(
        self, store: StoppingStore, lines: tuple[Line, Line]
    ) -> None:
        """Workers do not see what a step changes in place after setting the value."""
        value = [1]
        State(store)["key"] = value
        value.append(2)
        assert lines[0].state["key"] == lines[1].state["key"] == [1]
