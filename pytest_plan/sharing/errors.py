"""The errors of stores. Every message names the environment or the server, and says what to do."""

from __future__ import annotations

from typing import Any

from pytest_plan.engine.model.durations import format_duration
from pytest_plan.engine.model.errors import PlanError, StateError
from pytest_plan.sharing.model import EnvironmentId


class ShareError(PlanError):
    """A shared environment cannot be used, or the server has refused an operation."""


class ShareSetupError(ShareError):
    """Sharing cannot begin: the URL, the server, its settings or its rights are wrong."""


class SilentError(ShareError):
    """The server has not answered for some time.

    Attributes:
        server: the server, without a password.
        seconds: for how long this call has waited.
    """

    def __init__(self, server: str, seconds: float, cause: str) -> None:
        super().__init__(
            f"{server} has not answered for {format_duration(seconds)}: {cause}; check that the "
            "server is running and can be reached from this machine"
        )
        self.server = server
        self.seconds = seconds


class StaleError(ShareError):
    """The store does not accept the caller's environment id, epoch or membership any more.

    Attributes:
        current: the environment as the store knows it; None if it does not know it.
    """

    def __init__(self, message: str, current: EnvironmentId | None) -> None:
        super().__init__(message)
        self.current = current


class ClosedError(ShareError, StateError):
    """A member has written after the cleanup of the environment has begun."""


class Refusal(Exception):  # noqa: N818 - no error that users see; `explained` makes one of it
    """A rule has refused an operation, and nothing was changed.

    Attributes:
        kind: the rule that has refused it, such as `epoch`.
        facts: the values in the message.
    """

    def __init__(self, kind: str, **facts: Any) -> None:
        super().__init__(kind)
        self.kind = kind
        self.facts = facts


def explained(refusal: Refusal, name: str, server: str) -> PlanError:
    """Return the error for users that a refusal means.

    Args:
        refusal: the refusal.
        name: the name of the environment.
        server: the server, without a password.
    """
    where = f"the shared environment {name!r} on {server}"
    if refusal.kind in _STALE:
        facts = refusal.facts
        current = EnvironmentId(name, facts["id"], facts["epoch"]) if facts.get("id") else None
        return StaleError(f"{where} {_STALE[refusal.kind]}", current)
    if refusal.kind == "closed":
        return ClosedError(
            f"{where} can no longer be written: its cleanup has begun; finish the tests before the "
            "owner cleans up, or let it wait with --plan-share-runs"
        )
    return _OTHERS[refusal.kind](where, refusal.facts)


_STALE = {
    "unknown": (
        "does not exist any more: it was cleaned up, or the server has lost its data; "
        "run the tests again"
    ),
    "epoch": "now has another owner, so this operation was refused; renew the lease to continue",
    "member": (
        "no longer has this run as a member, because it did not renew its lease in time; "
        "run the tests again, or use a longer plan_share_lease"
    ),
    "owner": "belongs to another run; only its owner may do this",
}


def _format(where: str, facts: dict[str, Any]) -> PlanError:
    return ShareSetupError(
        f"{where} was written by another version of pytest-plan (format {facts['found']}, this "
        f"version uses {facts['known']}); use the same version in all runs, or another "
        "--plan-environment"
    )


def _project(where: str, facts: dict[str, Any]) -> PlanError:
    theirs, ours = set(facts["theirs"]), set(facts["ours"])
    difference = (
        f"its steps are {', '.join(facts['theirs']) or 'none'}; this project has "
        f"{', '.join(facts['ours']) or 'none'}"
        if theirs != ours
        else f"the code or options of its steps differ ({', '.join(facts['ours'])})"
    )
    return ShareSetupError(
        f"{where} is used by another plan: {difference}; use the same commit in all runs, or "
        "another --plan-environment"
    )


def _held(where: str, facts: dict[str, Any]) -> PlanError:
    return StateError(f"lock {facts['lock']!r} of {where} is already held by this thread")


def _lost(where: str, facts: dict[str, Any]) -> PlanError:
    return StateError(
        f"lock {facts['lock']!r} of {where} was lost: this run did not renew its lease in time, "
        "so another run may have held it; check the data that the lock guards"
    )


def _status(where: str, facts: dict[str, Any]) -> PlanError:
    return ShareError(f"{where} is {facts['status']}; {facts['cure']}")


_OTHERS = {
    "format": _format,
    "project": _project,
    "held": _held,
    "lost": _lost,
    "status": _status,
}
