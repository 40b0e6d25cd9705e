"""Every error can be pickled, copied and shown by `repr`."""

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
    """Return what must survive: type, text and attributes, also of the errors inside a group."""
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    attributes = {name: value for name, value in vars(error).items() if not name.startswith("_")}
    return type(error), str(error), attributes, [facts(one) for one in inner]


class Unpicklable(Exception):  # noqa: N818 - named after its property
    """A user's exception that cannot be pickled, like those of some database drivers."""

    def __init__(self) -> None:
        super().__init__("of a user")
        self.lock = threading.Lock()


@pytest.mark.parametrize("error", ERRORS, ids=ids)
class TestEachClass:
    """Properties that every error class has."""

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_it_pickles(self, error: PlanError, protocol: int) -> None:
        """Its text and attributes survive pickling with every protocol."""
        assert facts(pickle.loads(pickle.dumps(error, protocol))) == facts(error)

    @pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy])
    def test_it_copies(self, error: PlanError, twin: Callable[[PlanError], PlanError]) -> None:
        """A copy is another object with the same text and attributes."""
        other = twin(error)
        assert other is not error
        assert facts(other) == facts(error)

    def test_its_repr_has_its_name_and_text(self, error: PlanError) -> None:
        """The repr shows the class and the text, as for any exception."""
        assert type(error).__name__ in repr(error)
        assert "text" in repr(error)

    def test_it_is_a_plan_error(self, error: PlanError) -> None:
        """`except PlanError` catches every error."""
        assert isinstance(error, PlanError)

    def test_its_notes_survive_pickling(self, error: PlanError) -> None:
        """`__notes__` is part of the pickle."""
        noted = copy.copy(error)
        noted.__notes__ = ["a note"]
        assert pickle.loads(pickle.dumps(noted)).__notes__ == ["a note"]


class TestFamilies:
    """The built-in base classes of the errors."""

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
    def test_it_has_a_built_in_base_class(self, kind: type, base: type) -> None:
        """Code that does not know pytest-plan can catch it."""
        assert issubclass(kind, base)

    def test_a_cleanup_error_splits_into_cleanup_errors(self) -> None:
        """Both halves of a split are `CleanupError` groups, as `except*` needs them."""
        one = StepError("one", step="one", hook="cleanup", attempt=1)
        two = StepTimeoutError("two", step="two", hook="cleanup", attempt=1)
        match, rest = CleanupError("text", [one, two]).split(StepTimeoutError)
        assert isinstance(match, CleanupError)
        assert isinstance(rest, CleanupError)
        assert (match.exceptions, rest.exceptions) == ((two,), (one,))


@pytest.mark.timeout(20)
class TestErrorsOfARun:
    """The errors that `execute` raises, with their results."""

    @pytest.mark.parametrize("ending", ["failure", "timeout", "cancel", "limit", "cleanup"])
    def test_an_error_of_execute_pickles_with_its_result(
        self, clock: FakeClock, calls: Calls, ending: str
    ) -> None:
        """The error and its result refer to each other, and pickling handles this cycle."""
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

    def test_an_exception_that_cannot_be_pickled_is_replaced_by_its_text(
        self, clock: FakeClock
    ) -> None:
        """The attempts of the unpickled result have the text of the user's exception."""

        def exec() -> None:
            raise Unpicklable

        result, error = execute(Plan(clock=clock).add_step(GenericStep(exec=exec), name="it"))
        twin: Any = pickle.loads(pickle.dumps(result))
        assert str(twin.steps["it"].attempts[0].error) == "Unpicklable: of a user"
        assert "of a user" in str(pickle.loads(pickle.dumps(error)))


class TestDescribe:
    """The functions `describe` and `picklable`."""

    def test_the_description_is_one_line_of_type_and_text(self) -> None:
        """Line breaks are replaced, and an empty text is left out."""
        assert describe(ValueError("two\n  lines")) == "ValueError: two lines"
        assert describe(KeyError()) == "KeyError"
        assert describe(Unpicklable()) == "Unpicklable: of a user"

    def test_an_exception_whose_str_fails_is_described_by_its_type(self) -> None:
        """The error in `__str__` is not raised."""

        class Rude(Exception):  # noqa: N818 - named after its property
            def __str__(self) -> str:
                raise RuntimeError

        assert "Rude: " in describe(Rude())

    def test_an_exception_that_can_be_pickled_is_kept(self) -> None:
        """Only exceptions that cannot be pickled are replaced by their text."""
        error = ValueError("text")
        assert picklable(error) is error
        assert type(picklable(Unpicklable())) is PlanError
