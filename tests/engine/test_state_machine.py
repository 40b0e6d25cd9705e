"""Random operations give the same results on a State and a dict; many threads use a State."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pytest_plan import State, StateError
from pytest_plan.engine.shared.store import LocalStore
from tests.engine.support.fake_clock import FakeClock

KEYS = st.sampled_from("abcd")
VALUES = st.one_of(st.none(), st.integers(0, 2), st.just(1.0), st.lists(st.integers(0, 1)))
OWN = "step"  # the key of a step, which only the handle of that step may write
THREADS = 8
INCREMENTS = 50  # of each thread
LONGEST_WAIT = 30.0  # real seconds until a thread counts as hanging
MISSING = object()


def outcome(function: Callable[[], Any]) -> Any:
    """Return the value of `function`, or the class of the exception that it raises."""
    try:
        return function()
    except (KeyError, TypeError, StateError) as error:
        return type(error)


class StateMachine(RuleBasedStateMachine):
    """Does the same to a State and to a dict, and compares the results and the contents."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.store = LocalStore(self.clock)
        self.store.reserve(OWN)
        self.state = State(self.store)
        self.step_state = State(self.store, writer=OWN)
        self.model: dict[str, Any] = {}
        self.closed = False

    @rule(key=KEYS, value=VALUES)
    @precondition(lambda self: not self.closed)
    def set(self, key: str, value: Any) -> None:
        """A value that was set is present."""
        self.state[key] = value
        self.model[key] = value

    @rule(key=KEYS)
    def read(self, key: str) -> None:
        """Each way to read gives the same as the dict."""
        assert self.state.get(key) == self.model.get(key)
        assert self.state.get(key, MISSING) == self.model.get(key, MISSING)
        assert outcome(lambda: self.state[key]) == outcome(lambda: self.model[key])
        assert (key in self.state) is (key in self.model)

    @rule(key=KEYS)
    @precondition(lambda self: not self.closed)
    def delete(self, key: str) -> None:
        """A missing key cannot be deleted."""
        assert outcome(lambda: self.state.__delitem__(key)) == outcome(
            lambda: self.model.__delitem__(key)
        )

    @rule(key=KEYS, defaults=st.lists(VALUES, max_size=1))
    @precondition(lambda self: not self.closed)
    def pop(self, key: str, defaults: list[Any]) -> None:
        """A popped key is gone."""
        assert outcome(lambda: self.state.pop(key, *defaults)) == outcome(
            lambda: self.model.pop(key, *defaults)
        )

    @rule()
    @precondition(lambda self: not self.closed and OWN not in self.model)
    def popitem(self) -> None:
        """An arbitrary key is popped with its value."""
        if not self.model:
            assert outcome(self.state.popitem) is KeyError
            return
        key, value = self.state.popitem()
        assert self.model.pop(key) == value

    @rule(key=KEYS, value=VALUES)
    @precondition(lambda self: not self.closed)
    def setdefault(self, key: str, value: Any) -> None:
        """A present value stays."""
        assert self.state.setdefault(key, value) == self.model.setdefault(key, value)

    @rule(values=st.dictionaries(KEYS, VALUES), more=st.dictionaries(KEYS, VALUES))
    @precondition(lambda self: not self.closed)
    def update(self, values: dict[str, Any], more: dict[str, Any]) -> None:
        """Both forms of `update` write every key."""
        self.state.update(values, **more)
        self.model.update(values, **more)

    @rule(key=KEYS, value=VALUES)
    @precondition(lambda self: not self.closed)
    def swap(self, key: str, value: Any) -> None:
        """The old value is returned, None if there was none."""
        assert self.state.swap(key, value) == self.model.get(key)
        self.model[key] = value

    @rule(key=KEYS, old=VALUES, new=VALUES)
    @precondition(lambda self: not self.closed)
    def compare_and_swap(self, key: str, old: Any, new: Any) -> None:
        """Only an equal value is replaced."""
        swaps = key in self.model and self.model[key] == old
        assert self.state.compare_and_swap(key, old, new) is swaps
        if swaps:
            self.model[key] = new

    @rule(key=KEYS, old=VALUES)
    @precondition(lambda self: not self.closed)
    def compare_and_delete(self, key: str, old: Any) -> None:
        """Only an equal value is deleted."""
        deletes = key in self.model and self.model[key] == old
        assert self.state.compare_and_delete(key, old) is deletes
        if deletes:
            del self.model[key]

    @rule()
    @precondition(lambda self: not self.closed)
    def clear(self) -> None:
        """The keys of steps stay."""
        self.state.clear()
        self.model = {key: value for key, value in self.model.items() if key == OWN}

    @rule(key=KEYS)
    def wait_for(self, key: str) -> None:
        """A present value is returned at once; a missing one is a TimeoutError."""
        begun = self.clock.now()
        if key in self.model:
            assert self.state.wait_for(key) == self.model[key]
            assert self.clock.now() == begun
        else:
            with pytest.raises(TimeoutError, match=key):
                self.state.wait_for(key, timeout=3.0)
            assert self.clock.now() == begun + 3.0

    @rule(name=KEYS)
    def lock(self, name: str) -> None:
        """Locks are independent of each other and of keys."""
        again = self.state.lock(name)
        with self.state.lock(f"not {name}"), self.state.lock(name):
            assert outcome(again.__enter__) is StateError

    @rule(value=VALUES)
    def the_step_writes_its_key(self, value: Any) -> None:
        """A step may write its own key at any time."""
        self.step_state[OWN] = value
        self.model[OWN] = value

    @rule(value=VALUES)
    def others_cannot_write_a_key_of_a_step(self, value: Any) -> None:
        """Neither tests nor other steps can write the key of a step."""
        for writer in (self.state, State(self.store, writer="other")):
            with pytest.raises(StateError, match="belongs to the step"):
                writer[OWN] = value

    @rule(key=st.one_of(st.none(), st.integers(), st.binary()))
    def a_key_is_a_string(self, key: Any) -> None:
        """Other keys are refused and never present."""
        assert outcome(lambda: self.state[key]) is StateError
        assert outcome(lambda: self.state.__setitem__(key, 1)) is StateError
        assert key not in self.state

    @rule()
    def cleanup_begins(self) -> None:
        """From now on tests cannot write."""
        self.store.close()
        self.closed = True

    @rule(key=KEYS, value=VALUES)
    @precondition(lambda self: self.closed)
    def tests_cannot_write_during_cleanup(self, key: str, value: Any) -> None:
        """Tests are refused; steps are not."""
        with pytest.raises(StateError, match="cleanup has begun"):
            self.state[key] = value
        self.step_state[key] = value
        self.model[key] = value

    @invariant()
    def looks_like_the_dict(self) -> None:
        """All views equal those of the dict."""
        assert self.state.snapshot() == self.model
        assert dict(self.state.items()) == self.model
        assert list(self.state) == list(self.state.keys())
        assert len(self.state) == len(self.model)
        assert self.state == self.model
        assert repr(self.state) == f"State({self.state.snapshot()!r})"

    @invariant()
    def a_snapshot_is_a_copy(self) -> None:
        """Changing a snapshot is no write."""
        self.state.snapshot()["extra"] = 1
        assert "extra" not in self.state


TestStateMachine = StateMachine.TestCase
TestStateMachine.__doc__ = "Every method of State answers as a dict, or as the rules beside it."
TestStateMachine.settings = settings(
    max_examples=50, deadline=None, database=None, derandomize="CI" in os.environ
)


def in_threads(function: Callable[[int], None], number: int = THREADS) -> None:
    """Call `function(0)`, `function(1)` ... concurrently; raise the first exception."""
    errors: list[BaseException] = []
    together = threading.Barrier(number)

    def call(index: int) -> None:
        try:
            together.wait(LONGEST_WAIT)
            function(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST_WAIT)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


class TestThreads:
    """Many threads use one State."""

    def test_compare_and_swap_loses_no_increment(self) -> None:
        """Eight threads count, and every increment is kept."""
        state = State()
        state["count"] = 0

        def increment(_: int) -> None:
            for _ in range(INCREMENTS):
                while not state.compare_and_swap("count", old := state["count"], old + 1):
                    pass

        in_threads(increment)
        assert state["count"] == THREADS * INCREMENTS

    def test_setdefault_has_one_winner(self) -> None:
        """All threads get the value of the first one."""
        state, got = State(), list[int]()
        in_threads(lambda index: got.append(state.setdefault("key", index)))
        assert got == [state["key"]] * THREADS

    def test_pop_gives_a_value_once(self) -> None:
        """Of eight threads that pop a value, one gets it."""
        state, got = State(), list[Any]()
        state["key"] = "value"
        in_threads(lambda _: got.append(state.pop("key", None)))
        assert sorted(got, key=str) == [None] * (THREADS - 1) + ["value"]

    def test_lock_is_exclusive(self) -> None:
        """No other thread changes a value between a read and a write under the lock."""
        state = State()
        state["count"] = 0

        def increment(_: int) -> None:
            for _ in range(INCREMENTS):
                with state.lock("counting"):
                    state["count"] += 1

        in_threads(increment)
        assert state["count"] == THREADS * INCREMENTS

    def test_lock_is_free_after_an_error(self) -> None:
        """The lock is released when the body raises."""
        state = State()
        with pytest.raises(ZeroDivisionError), state.lock("name"):
            raise ZeroDivisionError
        with state.lock("name", timeout=0):
            pass

    def test_lock_is_refused_after_its_timeout(self) -> None:
        """A thread that waits too long gets a TimeoutError that names the lock."""
        clock = FakeClock(start=0)
        state = State(LocalStore(clock))

        def wait(_: int) -> None:
            with pytest.raises(TimeoutError, match="'name'"), state.lock("name", timeout=5):
                pytest.fail("two hold the lock")

        with state.lock("name"):
            in_threads(wait, number=1)
        assert clock.now() == 5

    def test_wait_for_wakes_when_the_key_is_set(self) -> None:
        """All waiting threads get the value without polling."""
        state, got = State(), list[Any]()

        def wait_or_set(index: int) -> None:
            if index:
                got.append(state.wait_for("key", timeout=LONGEST_WAIT))
            else:
                state["key"] = "value"

        in_threads(wait_or_set)
        assert got == ["value"] * (THREADS - 1)

    def test_a_snapshot_is_one_moment(self) -> None:
        """Two keys written one after the other are never seen in the wrong order."""
        state = State()
        state.update(first=0, second=0)
        seen: list[dict[str, int]] = []

        def write_or_look(index: int) -> None:
            for number in range(1, INCREMENTS):
                if index:
                    seen.append(state.snapshot())
                else:
                    state["first"] = number
                    state["second"] = number

        in_threads(write_or_look)
        assert all(0 <= look["first"] - look["second"] <= 1 for look in seen)
