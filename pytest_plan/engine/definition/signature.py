"""Hook functions: their kinds, and the parameters that they take by name."""

# Annotations are not postponed: a NamedTuple would compile each of them.
import enum
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from pytest_plan.engine.definition.step import Step
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.model.outcomes import Hook


class Kind(enum.Enum):
    """The kinds of functions that can be used as hooks."""

    PLAIN = "plain"
    COROUTINE = "coroutine"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"

    @property
    def yields(self) -> bool:
        """Whether the function has a tail: the code after its `yield`."""
        return self in (Kind.GENERATOR, Kind.ASYNC_GENERATOR)


_YIELDS, _SUSPENDS, _SUSPENDS_AND_YIELDS = 0x20, 0x80, 0x200  # inspect.CO_GENERATOR and so on
_KINDS = {
    0: Kind.PLAIN,
    _YIELDS: Kind.GENERATOR,
    _SUSPENDS: Kind.COROUTINE,
    _SUSPENDS_AND_YIELDS: Kind.ASYNC_GENERATOR,
}
# The attributes of a function that do not change its kind or its signature.
_MARKS = frozenset(("pytestmark",))
_HOOKS = [(hook, hook.value, getattr(Step, hook.value)) for hook in Hook]


class HookFunction(NamedTuple):
    """One hook of one step.

    Attributes:
        function: the function to call.
        kind: the kind of the function.
        required: names of the parameters that the plan passes. A parameter with a default is not
            among them: as with pytest's fixtures, it always keeps its default.
    """

    function: Callable[..., Any]
    kind: Kind
    required: tuple[str, ...]

    def takes(self, name: str) -> bool:
        """Return whether the hook has a parameter with this name."""
        return name in self.required


def hooks_of(step: Step, name: str) -> dict[Hook, HookFunction]:
    """Return the hooks that `step` defines; raise PlanDefinitionError if one is invalid."""
    found = {}
    for hook, attribute, default in _HOOKS:
        function = getattr(step, attribute)
        if getattr(function, "__func__", None) is default:
            continue
        if not callable(function):
            raise PlanDefinitionError(
                f"{attribute} of step {name!r} must be callable, not {function!r}", step=name
            )
        found[hook] = hook_function(function, hook, name)
    return found


def kind_of(function: Callable[..., Any]) -> Kind:
    """Return the kind of `function`; for a callable object, the kind of its `__call__`."""
    if (ordinary := _ordinary(function)) is not None:
        return _kind_of_code(ordinary.__code__)
    import inspect  # imported late because most hooks are ordinary functions

    for candidate in (function, getattr(function, "__call__", None)):  # noqa: B004 - not a test for callability
        if inspect.isasyncgenfunction(candidate):
            return Kind.ASYNC_GENERATOR
        if inspect.iscoroutinefunction(candidate):
            return Kind.COROUTINE
        if inspect.isgeneratorfunction(candidate):
            return Kind.GENERATOR
    return Kind.PLAIN


def hook_function(function: Callable[..., Any], hook: Hook, step: str) -> HookFunction:
    """Return `function` as a hook of a step; raise PlanDefinitionError if it cannot be one."""
    kind = kind_of(function)
    if kind.yields and hook is not Hook.EXEC:
        raise PlanDefinitionError(
            f"{hook.value} of step {step!r} is a generator function; only exec may yield", step=step
        )
    required = _required_by_code(function)
    if required is None:
        required = _required_by_signature(function, hook, step)
    return HookFunction(function, kind, required)


def _ordinary(function: Callable[..., Any]) -> types.FunctionType | None:
    """Return the function behind `function` if its code alone decides its kind and signature."""
    inner = function.__func__ if type(function) is types.MethodType else function
    if type(inner) is types.FunctionType and _MARKS.issuperset(inner.__dict__):
        return inner
    return None  # such as a wrapper


def _kind_of_code(code: types.CodeType) -> Kind:
    return _KINDS[code.co_flags & (_YIELDS | _SUSPENDS | _SUSPENDS_AND_YIELDS)]


def _required_by_code(function: Callable[..., Any]) -> tuple[str, ...] | None:
    """Return the parameters without a default; None if only `inspect` can tell.

    This takes a tenth of the time of `inspect.signature`.
    """
    ordinary = _ordinary(function)
    if ordinary is None:
        return None
    code, is_bound = ordinary.__code__, ordinary is not function
    if code.co_posonlyargcount or code.co_argcount < is_bound:
        return None
    first_default = code.co_argcount - len(ordinary.__defaults__ or ())
    names, given = code.co_varnames, ordinary.__kwdefaults__ or ()
    named = names[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    return (
        *names[is_bound : max(first_default, is_bound)],
        *(name for name in named if name not in given),
    )


def _required_by_signature(function: Callable[..., Any], hook: Hook, step: str) -> tuple[str, ...]:
    import inspect  # imported late because most hooks are ordinary functions

    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise PlanDefinitionError(
            f"{hook.value} of step {step!r}: cannot read the signature of {function!r}; "
            "call it from a function that you define",
            step=step,
        ) from None
    required: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
            raise PlanDefinitionError(
                f"{hook.value} of step {step!r}: parameter {parameter.name!r} is positional-only, "
                "but hooks take their parameters by name; remove the '/' from the signature",
                step=step,
                parameter=parameter.name,
            )
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    return tuple(required)
