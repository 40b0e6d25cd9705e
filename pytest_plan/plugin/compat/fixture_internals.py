"""Internals of pytest's fixtures, each with a fallback for a version of pytest that lacks it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

import pytest

from pytest_plan.plugin.compat.pytest_internals import catch_warnings

if TYPE_CHECKING:
    from pytest_plan.engine.definition.options import Parameter


def fixture_info(item: pytest.Item) -> Any | None:
    """Return the object in which pytest keeps a test's fixtures, or None if there is none.

    The object has the attributes `initialnames` and `name2fixturedefs`. All tests of a parametrized
    function share it. If it is None, the fixtures of the test are unknown, but its marks still
    declare its needs.
    """
    info = getattr(item, "_fixtureinfo", None)
    return info if hasattr(info, "initialnames") and hasattr(info, "name2fixturedefs") else None


def is_direct_parameter(item: pytest.Item, name: str) -> bool:
    """Return whether a test is parametrized with a value that replaces the fixture `name`."""
    definitions = getattr(fixture_info(item), "name2fixturedefs", {}).get(name, ())
    functions = (getattr(one.func, "__name__", "") for one in definitions)
    return "get_direct_param_fixture_func" in functions


def fixture_definitions(config: pytest.Config, name: str) -> list[Any]:
    """Return the definitions of the fixture `name`, or [] if pytest does not provide them.

    Only checks of step names and the wording of error messages depend on this function.
    """
    manager: Any = config.pluginmanager.get_plugin("funcmanage")
    find = getattr(manager, "getfixturedefs", None)
    return [] if find is None else list(find(name, manager.session) or ())


def fixture_definitions_from(
    item: pytest.Item, names: Sequence[str], without: AbstractSet[str]
) -> Mapping[str, Sequence[Any]]:
    """Return the definitions of all fixtures that a test reaches if it requests `names` later.

    Args:
        item: the test.
        names: the fixtures that it requests while it runs.
        without: the fixtures that will have been replaced by then; they reach nothing.
    """
    manager: Any = item.session.config.pluginmanager.get_plugin("funcmanage")
    closure = getattr(manager, "getfixtureclosure", None)
    if closure is None:
        return {}
    _, found = closure(parentnode=item, initialnames=tuple(names), ignore_args=without)
    own = getattr(fixture_info(item), "name2fixturedefs", {})  # has the values of parametrization
    return {name: own.get(name, definitions) for name, definitions in found.items()}


def let_others_override(config: pytest.Config, name: str, ours: Callable[..., Any]) -> None:
    """Let the fixture `name` of any plugin override ours, which has the function `ours`.

    pytest lets a plugin override those that were registered before. If this version of pytest keeps
    fixtures elsewhere, that order stays.
    """
    manager: Any = config.pluginmanager.get_plugin("funcmanage")
    by_node = getattr(manager, "_arg2node2fixturedefs", {}).get(name, {})  # the last one first
    for definitions in by_node.values():
        definitions.sort(key=lambda definition: definition.func is ours)
    # Before pytest 9.1, one list has the definitions of all nodes, the last one at its end.
    of_all_nodes = getattr(manager, "_arg2fixturedefs", {}).get(name, [])
    of_all_nodes.sort(key=lambda definition: definition.func is not ours)


def forget_failure(definition: Any, request: Any) -> None:
    """Let a fixture whose setup has failed be set up again when a test requests it.

    pytest keeps the failure until the scope of the fixture ends. If this version of pytest works in
    another way, the failure stays.

    Args:
        definition: the fixture.
        request: the request for which it was set up.
    """
    if hasattr(definition, "finish"):
        definition.finish(request)


def parameters(
    config: pytest.Config, name: str, params: Sequence[Any], ids: Any
) -> tuple[Parameter, ...]:
    """Give the parameters of a step the ids that pytest gives those of a fixture.

    If this version of pytest makes ids in another way, those of a plan without pytest are used.

    Args:
        config: the config of this process.
        name: the name of the step, and of its fixture.
        params: the values; each may be a `pytest.param`.
        ids: the option `ids`.

    Raises:
        ValueError: an id is invalid, or two parameters have the same one.
    """
    # Imported here because a run without steps does not import the engine.
    from pytest_plan.engine.definition.instances import plain_parameters, refuse_twins
    from pytest_plan.engine.definition.options import Parameter

    sets = [one if _is_set(one) else pytest.param(one) for one in params]
    if (wrong := next((one for one in sets if len(one.values) != 1), None)) is not None:
        raise ValueError(f"each of its parameters must be one value, not {wrong.values!r}")
    listed = () if callable(ids) else ids or ()
    refuse_twins([one.id for one in sets if one.id is not None] or listed)
    found = _made_ids(config, name, sets, ids)
    if found is None:
        plain = plain_parameters(name, [one.values[0] for one in sets], ids)
        found = [one.id for one in plain]
    texts = [
        one if isinstance(one, str) else f"{name}{position}" for position, one in enumerate(found)
    ]
    together = zip(params, sets, texts, strict=True)
    return tuple(Parameter(given, one.values[0], text) for given, one, text in together)


def _is_set(value: object) -> bool:
    return getattr(type(value), "_fields", ()) == type(pytest.param(None))._fields


def _made_ids(
    config: pytest.Config, name: str, sets: Sequence[Any], ids: Any
) -> Sequence[object] | None:
    """Return the ids that pytest makes, or None if this version makes them in another way."""
    try:
        from _pytest.python import IdMaker
    except ImportError:
        return None
    known: dict[str, Any] = {
        "argnames": [name],
        "parametersets": sets,
        "idfn": ids if callable(ids) else None,
        "ids": None if callable(ids) else ids,
        "config": config,
        "nodeid": None,
        "func_name": None,
    }
    taken = inspect.signature(IdMaker).parameters
    if not taken.keys() <= known.keys():
        return None
    maker = IdMaker(**{argument: known[argument] for argument in taken})
    try:
        made: Sequence[object] = maker.make_unique_parameterset_ids()
    except (pytest.fail.Exception, pytest.Collector.CollectError) as error:
        raise ValueError(str(error)) from error
    return made


def tear_down_fixtures(
    session: pytest.Session, mask: Callable[[str], str], *, keep_session: bool = False
) -> None:
    """Tear down the fixtures that are still set up, and report an error in one of them.

    After an interruption, pytest does this only when the session finishes. If this version of
    pytest works in another way, that is still what happens.

    Args:
        session: the session.
        mask: a function that masks the secrets in a text.
        keep_session: whether the fixtures of the session stay.

    Raises:
        KeyboardInterrupt: a fixture raised it.
        pytest.exit.Exception: a fixture called `pytest.exit`.
    """
    state: Any = getattr(session, "_setupstate", None)
    next_item = session if keep_session else None
    nodes = list(getattr(state, "stack", ()))
    if not nodes or not hasattr(state, "teardown_exact"):
        return
    with catch_warnings(session.config, mask):
        call = pytest.CallInfo.from_call(
            lambda: state.teardown_exact(next_item),
            "teardown",
            reraise=(KeyboardInterrupt, pytest.exit.Exception),
        )
    if call.excinfo is not None:
        report = _teardown_error(nodes[-1], call)
        session.config.hook.pytest_runtest_logreport(report=report)


def _teardown_error(node: Any, call: pytest.CallInfo[Any]) -> pytest.TestReport:
    return pytest.TestReport(
        node.nodeid,
        getattr(node, "location", (node.nodeid, None, node.name)),
        {},
        "failed",
        node.repr_failure(call.excinfo),
        "teardown",
        duration=call.duration,
        start=call.start,
        stop=call.stop,
    )
