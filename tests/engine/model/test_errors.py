"""Every error pickles, copies and reprs."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.errors import (
    PlanDefinitionError,
    PlanError,
    StateError,
    describe,
    picklable,
)
from pytest_plan.engine.model.results import (
    CleanupError,
    PlanCancelledError,
    PlanTimeoutError,
    StepError,
    StepTimeoutError,
)
from pytest_plan.engine.plan import Plan
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import Calls, cancel_and_sleep, execute

STEP = {"step": "db", "hook": "exec", "attempt": 2}

ERRORS: list[PlanError] = [
    PlanError("text"),
    PlanDefinitionError("text", step="db", parameter="config"),
    StateError("text"),
    StepError("text", step="db", hook="exec", attempt=2),
    StepTimeoutError("text", step="db", hook="exec", attempt=2),
    PlanCancelledError("text"),
    PlanTimeoutError("text"),
    CleanupError("text", [StepError("inner", step="db", hook="cleanup", attempt=1)]),
]


def ids(value: object) -> str:
    """Name a parameter by its type."""
    return type(value).__name__


def facts(error: BaseException) -> Any:
    """Return what must survive: type, text, attributes, and the same of what is inside."""
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    attributes = {name: value for name, value in vars(error).items() if not name.startswith("_")}
    return type(error), str(error), attributes, [facts(one) for one in inner]


class Unpicklable(Exception):  # noqa: N818 - what it is
    """An exception of a user's, such as drivers raise."""

    def __init__(self) -> None:
        super().__init__("of a user")
        self.lock = threading.Lock()


@pytest.mark.parametrize("error", ERRORS, ids=ids)
class TestEachClass:
    """What holds for each."""

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_it_pickles(self, error: PlanError, protocol: int) -> None:
        """With every protocol; text and attributes survive."""
        assert facts(pickle.loads(pickle.dumps(error, protocol))) == facts(error)

    @pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy])
    def test_it_copies(self, error: PlanError, twin: Callable[[PlanError], PlanError]) -> None:
        """Another object with the same text and attributes."""
        other = twin(error)
        assert other is not error
        assert facts(other) == facts(error)

    def test_its_repr_has_its_name_and_text(self, error: PlanError) -> None:
        """As of any exception."""
        assert type(error).__name__ in repr(error)
        assert "text" in repr(error)

    def test_it_is_a_plan_error(self, error: PlanError) -> None:
        """One `except PlanError` catches them all."""
        assert isinstance(error, PlanError)

    def test_its_notes_survive_pickling(self, error: PlanError) -> None:
        """`__notes__` too."""
        noted = copy.copy(error)
        noted.__notes__ = ["a note"]
        assert pickle.loads(pickle.dumps(noted)).__notes__ == ["a note"]


class TestFamilies:
    """What else an error is."""

    @pytest.mark.parametrize(
        ("kind", "base"),
        [
            (PlanDefinitionError, ValueError),
            (StepTimeoutError, StepError),
            (StepTimeoutError, TimeoutError),
            (PlanTimeoutError, TimeoutError),
            (CleanupError, ExceptionGroup),
        ],
    )
    def test_it_is_one_of_pythons_too(self, kind: type, base: type) -> None:
        """So code that knows nothing of plans can catch it."""
        assert issubclass(kind, base)

    def test_a_cleanup_error_splits_into_cleanup_errors(self) -> None:
        """As `except*` does."""
        one = StepError("one", step="one", hook="cleanup", attempt=1)
        two = StepTimeoutError("two", step="two", hook="cleanup", attempt=1)
        match, rest = CleanupError("text", [one, two]).split(StepTimeoutError)
        assert isinstance(match, CleanupError)
        assert isinstance(rest, CleanupError)
        assert (match.exceptions, rest.exceptions) == ((two,), (one,))


@pytest.mark.timeout(20)
class TestErrorsOfARun:
    """What `execute` raises, results and all."""

    @pytest.mark.parametrize("ending", ["failure", "timeout", "cancel", "limit", "cleanup"])
    def test_what_execute_raises_pickles_with_its_result(
        self, clock: FakeClock, calls: Calls, ending: str
    ) -> None:
        """Although the error is in the result, and the result in the error."""
        plan = Plan(clock=clock, limit=10)
        hooks: dict[str, Any] = {
            "failure": {"exec": calls.hook("exec", failures=1)},
            "timeout": {"exec": lambda ctx: ctx.sleep(60)},
            "cancel": {"exec": cancel_and_sleep(plan)},
            "limit": {"exec": lambda ctx: ctx.sleep(60)},
            "cleanup": {},
        }
        cleanup = calls.hook("cleanup", failures=1)
        plan.add_step(GenericStep(cleanup=cleanup), name="one")
        plan.add_step(
            GenericStep(**hooks[ending]), name="two", timeout=5 if ending == "timeout" else None
        )
        result, raised = execute(plan)
        error: Any = raised
        twin: Any = pickle.loads(pickle.dumps(error))
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert twin.result.steps["two"].outcome is result.steps["two"].outcome
        if ending != "cleanup":
            assert isinstance(twin.cleanup_error, CleanupError)
        assert isinstance(copy.deepcopy(error), type(error))
        repr(error)

    def test_a_users_exception_that_does_not_pickle_is_replaced_by_its_text(
        self, clock: FakeClock
    ) -> None:
        """In the attempts of the result."""

        def exec() -> None:
            raise Unpicklable

        result, error = execute(Plan(clock=clock).add_step(GenericStep(exec=exec), name="it"))
        twin: Any = pickle.loads(pickle.dumps(result))
        assert str(twin.steps["it"].attempts[0].error) == "Unpicklable: of a user"
        assert "of a user" in str(pickle.loads(pickle.dumps(error)))


class TestDescribe:
    """`describe` and `picklable`."""

    def test_it_is_one_line_of_type_and_text(self) -> None:
        """Whatever the text looks like."""
        assert describe(ValueError("two\n  lines")) == "ValueError: two lines"
        assert describe(KeyError()) == "KeyError"
        assert describe(Unpicklable()) == "Unpicklable: of a user"

    def test_a_text_that_raises_is_no_second_error(self) -> None:
        """Its type is shown."""

        class Rude(Exception):  # noqa: N818 - what it is
            def __str__(self) -> str:
                raise RuntimeError

        assert "Rude: " in describe(Rude())

    def test_what_pickles_stays_what_it_is(self) -> None:
        """Only the others become text."""
        error = ValueError("text")
        assert picklable(error) is error
        assert type(picklable(Unpicklable())) is PlanError
