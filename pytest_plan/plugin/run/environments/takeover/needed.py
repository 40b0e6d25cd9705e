"""Whether the environment of a dead owner is still used by runs that share it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_plan.sharing.errors import ShareError
from pytest_plan.sharing.model import Status
from pytest_plan.sharing.urls import LOCAL, open_store


def is_needed(shared: Mapping[str, Any], plan_dir: Path, *, is_asked: bool) -> bool:
    """Return whether only a caretaker may clean up, according to what is known here.

    Args:
        shared: what the journal of the owner records about the shared environment.
        plan_dir: the folder of the plan, in which the store of this machine is.
        is_asked: whether the user has asked for the cleanup. For an environment on a server, which
            cannot be asked without its URL, the user knows best.
    """
    if not shared["is_local"]:
        return not is_asked
    try:
        store = open_store(LOCAL, plan_dir)
        try:
            view = store.view(shared["name"])
        finally:
            store.shut()
    except ShareError:
        return False
    if view is None or view.environment.id != shared["id"] or view.status is Status.DONE:
        return False
    return view.is_owner_alive or bool(view.members)
