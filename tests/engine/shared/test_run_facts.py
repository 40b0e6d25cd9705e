"""Ports and environment variables, the facilities that all steps of a run share."""

from __future__ import annotations

import itertools
import os
import socket

import pytest

from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.shared.run_facts import Ports
from pytest_plan.engine.shared.variables import Variables
from tests.engine.support.steps import Background

NAME = "PLAN_TEST_VARIABLE"


class TestPorts:
    """Free ports of the loopback interface."""

    def test_a_port_can_be_bound(self) -> None:
        """A port that was handed out is free."""
        port = Ports().take()
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))
            assert server.getsockname() == ("127.0.0.1", port)

    def test_no_port_is_given_twice_although_nobody_binds_it(self) -> None:
        """Four threads that take ports never get the same one."""
        ports = Ports()
        threads = [Background(lambda: [ports.take() for _ in range(100)]) for _ in range(4)]
        assert len({port for thread in threads for port in thread.result()}) == 400

    def test_a_port_that_is_given_again_by_the_system_is_passed_over(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the system offers a port twice, the next free one is taken."""
        offered = iter([5001, 5001, 5001, 5002])

        class Probe:
            def __init__(self, family: int) -> None: ...

            def __enter__(self) -> Probe:
                return self

            def __exit__(self, *_: object) -> None: ...

            def bind(self, address: tuple[str, int]) -> None: ...

            def getsockname(self) -> tuple[str, int]:
                return "127.0.0.1", next(offered)

        monkeypatch.setattr(socket, "socket", Probe)
        ports = Ports()
        assert [ports.take(), ports.take()] == [5001, 5002]


class TestVariables:
    """Each environment variable belongs to one step."""

    def test_a_variable_is_set_and_restored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`restore` gives the variable its earlier value."""
        monkeypatch.setenv(NAME, "before")
        variables = Variables()
        variables.set(NAME, "value", "one")
        assert os.environ[NAME] == "value"
        assert variables.current() == {NAME: "value"}
        variables.restore(NAME)
        assert os.environ[NAME] == "before"
        assert variables.current() == {}

    def test_a_variable_that_was_not_there_is_gone(self) -> None:
        """`restore` removes a variable that was unset before."""
        variables = Variables()
        variables.set(NAME, "value", "one")
        variables.restore(NAME)
        assert NAME not in os.environ

    def test_two_owners_are_refused(self) -> None:
        """A second step can set a variable only after the first has restored it."""
        variables = Variables()
        variables.set(NAME, "1", "one")
        with pytest.raises(PlanDefinitionError, match=f"'one' and 'two'.*'{NAME}'") as caught:
            variables.set(NAME, "2", "two")
        assert caught.value.step == "two"
        assert os.environ[NAME] == "1"
        variables.restore(NAME)
        variables.set(NAME, "2", "two")
        variables.restore(NAME)

    @pytest.mark.parametrize("before", [None, "before"])
    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    def test_the_newest_value_that_is_not_undone_holds(
        self, monkeypatch: pytest.MonkeyPatch, before: str | None, order: tuple[int, ...]
    ) -> None:
        """Three plans may set and undo the same variable in any order."""
        monkeypatch.delenv(NAME, raising=False)
        if before is not None:
            monkeypatch.setenv(NAME, before)
        plans = [Variables() for _ in range(3)]
        for number, plan in enumerate(plans):
            plan.set(NAME, str(number), "one")
        left = {0, 1, 2}
        for number in order:
            plans[number].restore(NAME)
            left.remove(number)
            assert os.environ.get(NAME) == (str(max(left)) if left else before)

    def test_a_value_that_is_set_later_holds_although_an_earlier_one_is_undone(self) -> None:
        """A plan that sets a variable after another plan's undo does not restore an old value."""
        first, second = Variables(), Variables()
        first.set(NAME, "first", "one")
        second.set(NAME, "second", "one")
        first.restore(NAME)
        first.set(NAME, "third", "one")
        second.restore(NAME)
        assert os.environ[NAME] == "third"
        first.restore(NAME)
        assert NAME not in os.environ
