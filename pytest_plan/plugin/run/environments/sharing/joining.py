"""Joins a shared environment: finds the role of this run, or waits while it is being cleaned up."""

from __future__ import annotations

import contextlib
import secrets
from _blake2 import blake2b  # `hashlib` loads OpenSSL
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pytest

from pytest_plan.engine.environments.fingerprint import Fingerprints
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.processes.identity import this_owner
from pytest_plan.plugin.interface import sharing
from pytest_plan.plugin.main_thread.heartbeat import Heartbeat
from pytest_plan.plugin.run.environments.sharing.link import Link
from pytest_plan.sharing.errors import ShareError, ShareSetupError
from pytest_plan.sharing.model import Joined, Joining, Member, Project, Role, Status, View
from pytest_plan.sharing.urls import open_store

if TYPE_CHECKING:
    from pytest_plan.engine.definition.planned import PlannedStep
    from pytest_plan.plugin.declaring.declared import DeclaredSteps
    from pytest_plan.plugin.interface.options import Settings
    from pytest_plan.plugin.main_thread.foreground import Foreground
    from pytest_plan.sharing.protocol import Store

_PATIENCE = 10.0  # seconds for which a call is repeated while the server does not answer
_ANOTHER = "is used by another plan"  # in the text of an error
_TESTPATHS = (
    "; if the runs have different arguments, set testpaths, so that all of them load the same "
    "conftests"
)
_POLL = 0.2  # seconds between two attempts to join an environment that is being cleaned up


def join(declared: DeclaredSteps, foreground: Foreground) -> Link:
    """Join the environment that the options name, and return the part of this run in it.

    Raises:
        pytest.UsageError: the server cannot be used, another plan uses the environment, or a step
            waits for tests.
        KeyboardInterrupt: a signal was received while this run waited.
    """
    _refuse_late_steps(declared)
    settings = declared.settings
    assert settings.share is not None
    is_local = settings.share == sharing.LOCAL
    name, steps = sharing.name_of(settings), shared_steps(declared.steps)
    joining = Joining(
        this_member(),
        Project(_fingerprint(declared, steps), tuple(steps)),
        settings.share_lease,
        sharing.runs_of(settings),
    )
    patience = min(_PATIENCE, settings.share_lease)
    store = None
    try:
        store = open_store(settings.share, settings.dir, patience=patience)
        joined = _join(store, name, joining, foreground, is_local=is_local)
    except (ShareError, StateError) as error:
        if store is not None:
            store.shut()
        is_other_plan = isinstance(error, ShareSetupError) and _ANOTHER in str(error)
        more = "" if declared.config.getini("testpaths") or not is_other_plan else _TESTPATHS
        raise pytest.UsageError(f"{error}{more}") from None
    link = Link(store, joined, joining.project, joining.member, is_local=is_local)
    _say(link, joined, foreground)
    return link


def _refuse_late_steps(declared: DeclaredSteps) -> None:
    """Refuse steps that wait for tests, which do not work with a shared environment yet."""
    share = declared.settings.sources["share"]
    late = [step for step in declared.steps.values() if step.options.after_tests]
    if late:
        names = ", ".join(f"{step.name!r} ({step.origin})" for step in late)
        raise pytest.UsageError(
            f"{share} does not work with steps that wait for tests (after_tests): {names}; "
            f"run these tests without {share}"
        )


def count_out(settings: Settings, say: Callable[[str], None], *, is_hurried: bool) -> None:
    """Join and leave at once, because this run has failed before it could join.

    Otherwise, the owner would wait for it, because it waits for a number of runs.

    Args:
        settings: the options of this run.
        say: a function that writes a line.
        is_hurried: whether not to wait for an environment that no other run has begun yet.
    """
    name, until = sharing.name_of(settings), SystemClock.now() + _PATIENCE
    with contextlib.suppress(ShareError, StateError):  # then the owner has no server, either
        store = open_store(str(settings.share), settings.dir, patience=_POLL)
        try:
            is_counted = _is_counted(store, name)
            if not is_counted and not is_hurried:
                say(f"waiting up to {format_duration(_PATIENCE)}: {name!r} has no owner yet")
            while not (is_counted or is_hurried) and SystemClock.now() < until:
                SystemClock.sleep(_POLL)
                is_counted = _is_counted(store, name)
        finally:
            store.shut()
        if is_counted:
            say(f"the owner of {name!r} does not wait for this run")


def _is_counted(store: Store, name: str) -> bool:
    """Join an environment and leave it, if it waits for more runs; return whether it exists."""
    view = store.view(name)
    if view is None or view.status is not Status.OPEN or not view.is_owner_alive:
        return False
    if view.joins < view.runs:
        joined = store.join(name, Joining(this_member(), view.project, view.lease))
        store.leave(joined.access, failed=True)
    return True


def shared_steps(steps: Mapping[str, PlannedStep]) -> Mapping[str, PlannedStep]:
    """Return the steps that the owner provisions for all runs: not those of single workers."""
    return {name: step for name, step in steps.items() if step.worker is None}


def this_member() -> Member:
    """Return this process as a new member."""
    me = this_owner()
    return Member(
        secrets.token_hex(16), me.host, sharing.job(), me.pid, me.birth, me.boot, me.namespace
    )


def _fingerprint(declared: DeclaredSteps, steps: Mapping[str, PlannedStep]) -> str:
    """Return a fingerprint of all steps, which is that of other machines with the same commit."""
    prints = Fingerprints(lambda: declared.steps, declared.definition.options.host)
    text = "\n".join(f"{name} {prints.of(name)}" for name in sorted(steps))
    return blake2b(text.encode(), digest_size=12).hexdigest()


def _join(
    store: Store, name: str, joining: Joining, foreground: Foreground, *, is_local: bool
) -> Joined:
    say = Heartbeat(foreground, lambda: f"waiting: {name!r} is being cleaned up by another run")
    while True:
        view = store.view(name) if joining.runs else None
        runs = joining.runs if view is None else _missing(view, joining.runs, is_local=is_local)
        joined = store.join(name, joining._replace(runs=runs))
        if joined.role is not Role.WAIT:
            return joined
        say()
        foreground.signals.raise_received()
        SystemClock.sleep(_POLL)


def _missing(view: View, runs: int, *, is_local: bool) -> int:
    """Return for how many runs this one waits if it begins the environment again.

    Those that have joined it before do not come once more. If all of them have, this run is a job
    that was started again, alone; only on one machine, it is the first of as many runs as before.
    """
    has_ended = view.status is Status.DONE and view.joins >= view.runs
    return runs if is_local and has_ended else max(0, runs - view.joins)


def _say(link: Link, joined: Joined, foreground: Foreground) -> None:
    where = f"shared environment {link.name!r}"
    if not link.is_local:
        where += f" on {link.store.server}"
    if link.lost is not None:
        foreground.say(f"{where}: {link.lost}, and this run uses what it has provisioned")
        return
    if not link.is_owner:
        foreground.say(f"{where}: {link.owner} provisions it, and this run uses it")
        return
    ago = joined.begun_again_after
    if ago is not None:
        text = f"the shared environment {link.name!r} was cleaned up {format_duration(ago)} ago"
        foreground.say(f"{text}: this run provisions it again")
    else:
        foreground.say(f"{where}: this run provisions it")
