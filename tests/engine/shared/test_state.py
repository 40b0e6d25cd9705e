"""The State, the map that steps and tests share."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest

from pytest_plan.engine.calls.call import CallScope
from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.model.outcomes import Hook
from pytest_plan.engine.model.results import PlanCancelledError, StepTimeoutError
from pytest_plan.engine.model.secret import Secret
from pytest_plan.engine.model.stop import Stop, StopKind
from pytest_plan.engine.shared.state import State
from pytest_plan.engine.shared.store import LocalStore
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import Background


@pytest.fixture
def store(clock: FakeClock) -> LocalStore:
    """A store whose timeouts need no real time."""
    return LocalStore(clock)


@pytest.fixture
def state(store: LocalStore) -> State:
    """The State of a test."""
    return State(store)


class TestMap:
    """The State is a MutableMapping with gsd's methods."""

    def test_it_is_a_mutable_mapping(self, state: State) -> None:
        """It works wherever Python code expects a mapping."""
        assert isinstance(state, MutableMapping)
        state.update(a=1, b=2)
        assert dict(state) == {"a": 1, "b": 2}
        assert (len(state), list(state), "a" in state, "c" in state) == (2, ["a", "b"], True, False)

    def test_a_missing_key_is_none_for_get_and_an_error_for_brackets(self, state: State) -> None:
        """`get` follows gsd's Get, `[]` follows Python's mappings."""
        assert state.get("missing") is None
        assert state.get("missing", 7) == 7
        with pytest.raises(KeyError, match="missing"):
            state["missing"]
        with pytest.raises(KeyError, match="missing"):
            del state["missing"]

    def test_get_with_a_type_gives_only_values_of_that_type(self, state: State) -> None:
        """A value of another type is an error that names the key and both types, not a surprise."""
        state.update(port=8080, names=["a"], none=None)
        assert state.get("port", type=int) == 8080
        assert state.get("names", type=list[str]) == ["a"]
        assert state.get("missing", type=int) is None
        assert state.get("missing", 7, type=int) == 7
        assert state.get("none", type=int) is None
        with pytest.raises(StateError, match="the value of 'port' is of type 'int', not 'str'"):
            state.get("port", type=str)
        with pytest.raises(StateError, match="the value of 'none' is of type 'NoneType', not"):
            state.get("none", 7, type=int)

    def test_none_is_a_value(self, state: State) -> None:
        """A key whose value is None is present."""
        state["none"] = None
        assert "none" in state
        assert state["none"] is None
        assert state.setdefault("none", 7) is None

    def test_setdefault_sets_only_what_is_missing(self, state: State) -> None:
        """It returns the value that the key has then (gsd: LoadOrStore)."""
        assert state.setdefault("key", 1) == 1
        assert state.setdefault("key", 2) == 1

    def test_pop_removes_and_returns(self, state: State) -> None:
        """It is gsd's LoadAndDelete; a default is returned for a missing key."""
        state["key"] = 1
        assert state.pop("key") == 1
        assert state.pop("key", None) is None
        with pytest.raises(KeyError):
            state.pop("key")
        with pytest.raises(TypeError):
            state.pop("key", 1, 2)

    def test_swap_returns_what_was_there(self, state: State) -> None:
        """It returns None if the key was missing."""
        assert state.swap("key", 1) is None
        assert state.swap("key", 2) == 1
        assert state["key"] == 2

    def test_compare_and_swap(self, state: State) -> None:
        """It is true only if the key was present and its value was equal."""
        assert not state.compare_and_swap("key", None, 1)
        assert "key" not in state
        state["key"] = 1.0
        assert not state.compare_and_swap("key", 2, 3)
        assert state.compare_and_swap("key", 1, 3)
        assert state["key"] == 3

    def test_compare_and_delete(self, state: State) -> None:
        """It is true only if the key was present and its value was equal."""
        assert not state.compare_and_delete("key", None)
        state["key"] = [1]
        assert not state.compare_and_delete("key", [2])
        assert state.compare_and_delete("key", [1])
        assert "key" not in state

    def test_values_are_compared_by_equality(self, state: State) -> None:
        """The value of the State is on the left of `==`."""
        compared: list[Any] = []

        class Value:
            __hash__ = None  # type: ignore[assignment]

            def __eq__(self, other: object) -> bool:
                compared.append(other)
                return True

        state["key"] = Value()
        assert state.compare_and_swap("key", "old", "new")
        assert compared == ["old"]

    def test_a_snapshot_is_a_copy(self, state: State) -> None:
        """It is independent of later writes, and changing it is no write."""
        state["key"] = 1
        snapshot = state.snapshot()
        state["key"] = 2
        snapshot["key"] = 3
        assert state["key"] == 2
        assert type(snapshot) is dict

    def test_clear_leaves_the_values_of_steps(self, store: LocalStore, state: State) -> None:
        """The keys of steps stay."""
        store.reserve("db")
        State(store, writer="db")["db"] = 1
        state["key"] = 1
        state.clear()
        assert dict(state) == {"db": 1}

    def test_its_repr_shows_no_secret(self, state: State) -> None:
        """A Secret is masked in the repr."""
        state["password"] = Secret("hunter2")
        assert repr(state) == "State({'password': Secret('***')})"

    def test_what_changes_while_it_is_iterated_is_not_seen(self, state: State) -> None:
        """Iteration uses a consistent copy of the keys."""
        state.update(a=1, b=2)
        for key in state:
            state[key + "2"] = 1
        assert len(state) == 4


KEYS = (1, None, b"key", ("a",))
OPERATIONS: dict[str, Callable[[State, Any], Any]] = {
    "get": lambda state, key: state.get(key),
    "[]": lambda state, key: state[key],
    "[]=": lambda state, key: state.__setitem__(key, 1),
    "del": lambda state, key: state.__delitem__(key),
    "setdefault": lambda state, key: state.setdefault(key, 1),
    "pop": lambda state, key: state.pop(key, None),
    "swap": lambda state, key: state.swap(key, 1),
    "compare_and_swap": lambda state, key: state.compare_and_swap(key, 1, 2),
    "compare_and_delete": lambda state, key: state.compare_and_delete(key, 1),
    "update": lambda state, key: state.update({key: 1}),
    "wait_for": lambda state, key: state.wait_for(key, 0),
}
WRITES = ("[]=", "del", "setdefault", "pop", "swap", "compare_and_swap", "compare_and_delete",
          "update")  # fmt: skip


class TestRefusals:
    """Operations that raise StateError."""

    @pytest.mark.parametrize("key", KEYS)
    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_a_key_is_a_string(self, state: State, operation: str, key: Any) -> None:
        """The message shows the key and its type."""
        with pytest.raises(StateError) as caught:
            OPERATIONS[operation](state, key)
        assert repr(key) in str(caught.value)
        assert type(key).__name__ in str(caught.value)

    @pytest.mark.parametrize("key", KEYS)
    def test_what_is_no_string_is_not_in_it(self, state: State, key: object) -> None:
        """`in` returns False for a key that is not a string."""
        assert key not in state

    @pytest.mark.parametrize("writer", [None, "web"])
    @pytest.mark.parametrize("operation", WRITES)
    def test_the_key_of_a_step_is_that_steps_alone(
        self, store: LocalStore, operation: str, writer: str | None
    ) -> None:
        """Neither tests nor other steps can write or remove it, but all can read it."""
        store.reserve("db")
        if operation != "setdefault":
            State(store, writer="db")["db"] = 1
        with pytest.raises(StateError, match="'db'"):
            OPERATIONS[operation](State(store, writer=writer), "db")

    @pytest.mark.parametrize("operation", WRITES)
    def test_tests_write_nothing_once_cleanup_has_begun(
        self, store: LocalStore, operation: str
    ) -> None:
        """Steps can still write."""
        if operation != "setdefault":
            State(store)["key"] = 1
        store.close()
        with pytest.raises(StateError, match="cleanup has begun"):
            OPERATIONS[operation](State(store), "key")
        OPERATIONS[operation](State(store, writer="db"), "key")

    @pytest.mark.parametrize("operation", ["[]=", "del", "update"])
    def test_an_abandoned_step_writes_nothing(self, store: LocalStore, operation: str) -> None:
        """Its writes are refused; the message names step, hook and attempt."""
        scope = CallScope("db", Hook.EXEC, 2, None)
        state = State(store, writer="db", guard=scope)
        state["key"] = 1
        scope.abandon(threading.get_ident())
        with pytest.raises(StateError, match="'db' was abandoned in exec, attempt 2"):
            OPERATIONS[operation](state, "key")
        assert state["key"] == 1


class TestWaiting:
    """`wait_for` and `lock`."""

    def test_a_value_that_is_there_needs_no_waiting(self, state: State) -> None:
        """`wait_for` returns a present value at once."""
        state["key"] = None
        assert state.wait_for("key", 0) is None

    def test_a_waiter_gets_the_value_when_it_is_set(self, state: State) -> None:
        """Any other thread can set it."""
        waiting = Background(lambda: state.wait_for("key"))
        state["other"] = 0
        state["key"] = 7
        assert waiting.result() == 7

    def test_waiting_ends_at_its_timeout(self, state: State, clock: FakeClock) -> None:
        """TimeoutError names the key, exactly when the timeout has passed."""
        begun = clock.now()
        with pytest.raises(TimeoutError, match="'key'"):
            state.wait_for("key", 5)
        assert clock.now() - begun == pytest.approx(5)

    @pytest.mark.parametrize(
        ("kind", "error"),
        [(StopKind.CANCEL, PlanCancelledError), (StopKind.TIMEOUT, StepTimeoutError)],
    )
    def test_waiting_ends_when_the_step_must_stop(
        self, store: LocalStore, kind: StopKind, error: type[Exception]
    ) -> None:
        """`wait_for` raises the same error as `ctx.check`."""
        scope = CallScope("db", Hook.EXEC, 1, None)
        scope.flag.raise_(Stop(kind, "enough"))
        state = State(store, writer="db", guard=scope)
        with pytest.raises(error, match="enough"):
            state.wait_for("key")

    def test_a_lock_is_held_by_one(self, state: State) -> None:
        """The next thread gets the lock when it is released."""
        held, go_on = threading.Event(), threading.Event()
        order: list[str] = []

        def first() -> None:
            with state.lock("one"):
                held.set()
                assert go_on.wait(10)
                order.append("first")

        def second() -> None:
            with state.lock("one"):
                order.append("second")

        holder = Background(first)
        assert held.wait(10)
        waiter = Background(second)
        with state.lock("another"):
            go_on.set()
        holder.result()
        waiter.result()
        assert order == ["first", "second"]

    def test_a_lock_that_is_not_free_in_time_is_an_error(
        self, state: State, clock: FakeClock
    ) -> None:
        """TimeoutError names the lock, and the body of the `with` does not run."""
        held, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            with state.lock("one"):
                held.set()
                assert go_on.wait(10)

        holder = Background(hold)
        assert held.wait(10)
        with pytest.raises(TimeoutError, match="'one'"), state.lock("one", timeout=5):
            raise AssertionError("two at once")
        go_on.set()
        holder.result()
        assert clock.now() == pytest.approx(1005)

    def test_a_lock_is_given_back_after_an_error(self, state: State) -> None:
        """The lock is released whatever the body raises."""
        with pytest.raises(ZeroDivisionError), state.lock("one"):
            raise ZeroDivisionError
        with state.lock("one", timeout=0):
            pass

    def test_a_lock_cannot_be_taken_twice_by_one_thread(self, state: State) -> None:
        """The second attempt is an error, because it would wait for ever."""
        with (
            pytest.raises(StateError, match="already held"),
            state.lock("one"),
            state.lock("one"),
        ):
            raise AssertionError("taken twice")
        with state.lock("one", timeout=0):
            pass


class TestThreads:
    """Concurrent updates are not lost."""

    def test_concurrent_swaps_lose_nothing(self) -> None:
        """Eight threads count with compare_and_swap, and no increment is lost."""
        state = State()
        state["count"] = 0

        def count() -> None:
            for _ in range(200):
                while not state.compare_and_swap("count", was := state["count"], was + 1):
                    pass

        for thread in [Background(count) for _ in range(8)]:
            thread.result()
        assert state["count"] == 1600

    def test_a_key_is_popped_by_one_thread(self) -> None:
        """Of eight threads that pop a key, one gets its value."""
        state = State()
        state.update({str(number): number for number in range(200)})
        got: list[int] = []

        def pop() -> None:
            for number in range(200):
                value = state.pop(str(number), None)
                if value is not None:
                    got.append(value)

        for thread in [Background(pop) for _ in range(8)]:
            thread.result()
        assert sorted(got) == list(range(200))

    def test_setdefault_has_one_winner(self) -> None:
        """All threads get the value of the first one."""
        state = State()
        barrier = threading.Barrier(8, timeout=10)

        def setdefault(number: int) -> Any:
            barrier.wait()
            return state.setdefault("key", number)

        threads = [Background(functools.partial(setdefault, number)) for number in range(8)]
        assert {thread.result() for thread in threads} == {state["key"]}
