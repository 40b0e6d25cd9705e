"""The program that the reaper becomes once its owner has ended.

`python -m pytest_plan.engine.environments.reap JOURNAL COMMAND...` ends every process tree that no
remaining cleanup depends on. It then becomes COMMAND, which cleans up the rest in reverse order. If
the journal was removed shortly before the owner ended, this program first writes it again, from the
files that the watchdog has kept open.

With the variable `PYTEST_PLAN_SHARED`, other runs may use the processes, so COMMAND decides when to
end them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_plan.engine.environments.watchdog import VARIABLE
from pytest_plan.engine.journal.reader import Recorded, read
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.processes.orphan import OrphanTree, orphan_tree
from pytest_plan.engine.processes.tree import KILL

if TYPE_CHECKING:
    import sqlite3

SHARED = "PYTEST_PLAN_SHARED"  # what COMMAND has to know about an environment that runs share


def end_trees(recorded: Recorded) -> None:
    """Kill every process tree that no remaining cleanup depends on."""
    needed = set(_needed(recorded))
    for name, step in recorded.steps.items():
        for undo in step.undos:
            if undo.kind == "tree" and name not in needed:
                tree: OrphanTree = orphan_tree(json.loads(undo.data))
                with contextlib.suppress(TimeoutError):
                    tree.end(SystemClock(), KILL, 0.0)


def _needed(recorded: Recorded) -> Iterator[str]:
    """Yield the steps whose cleanup must still run, and all steps that they depend on."""
    waiting = [
        name
        for name, step in recorded.steps.items()
        if step.hook_is_due or any(undo.kind == "call" for undo in step.undos)
    ]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in recorded.steps:
            continue
        seen.add(name)
        yield name
        waiting += [*recorded.steps[name].needs, *recorded.steps[name].after]


def _handed_over(journal: str) -> tuple[list[int], Path]:
    """Return the open files of the journal, if there are any, and its path."""
    text = os.environ.pop(VARIABLE, f"-1:-1:{journal}")
    *files, path = text.split(":", 2)
    return [int(file) for file in files if file != "-1"], Path(path)


def _read(journal: Path, held: Sequence[int]) -> Recorded:
    key = Key.of(os.environ)
    try:
        recorded = read(journal, key)
        recorded.check_place()
    except JournalError:
        if not held or (file := _rescue(journal, held, key)) is None:
            raise
        recorded = read(file, key)
    return recorded


def _rescue(journal: Path, held: Sequence[int], key: Key) -> Path | None:
    """Write a lost journal again from its open files; return None if nothing is to clean up."""
    import tempfile

    from pytest_plan.engine.environments.private import temporary_parent
    from pytest_plan.engine.journal.schema import connect

    with tempfile.TemporaryDirectory(prefix="plan-journal-") as folder:
        copy = Path(folder) / journal.name
        for suffix, source in zip(("", "-wal"), held, strict=False):
            with open(source, "rb") as content:
                Path(f"{copy}{suffix}").write_bytes(content.read())
        copy.chmod(0o600)
        lost = read(copy, key)
        if not lost.due():
            return None
        with contextlib.closing(connect(copy)) as connection:
            for parent in (journal.parents[2], temporary_parent()):
                file = _write(connection, lost, parent, journal.parent.name, key)
                if file is not None:
                    return file
    return None


def _write(
    source: sqlite3.Connection, lost: Recorded, parent: Path, name: str, key: Key
) -> Path | None:
    """Write a lost journal to its environment in `parent`; return None if that fails."""
    import sqlite3

    from pytest_plan.engine.environments.environment import Environment
    from pytest_plan.engine.environments.lock import owner_of
    from pytest_plan.engine.journal.schema import reopen, write_copy

    owner = owner_of(lost)
    if owner is None or not parent.parent.is_dir():
        return None
    with contextlib.suppress(JournalError, OSError, sqlite3.Error):
        seal, _ = reopen(lost.file, key)
        environment = Environment(parent, name, key)
        try:
            if os.path.lexists(environment.file):
                environment.set_aside(owner)
            write_copy(source, environment.file, seal)
        finally:
            environment.release()
        return environment.file
    return None


def main(arguments: list[str]) -> Any:
    """End process trees, then become the command that cleans up the rest.

    If the environment is kept, or if another running process owns it, leave its trees alone.
    """
    first, *command = arguments
    held, journal = _handed_over(first)
    try:
        recorded = _read(journal, held)
        old, new = (f"plan_dir={Path(file).parents[2]}" for file in (first, recorded.file))
        command = [new if argument == old else argument for argument in command]
        is_taken = recorded.owner is not None and recorded.owner.is_alive()
        if not recorded.is_kept and not is_taken and SHARED not in os.environ:
            end_trees(recorded)
        os.chdir(recorded.facts["launch"]["cwd"])
    except (JournalError, LookupError, OSError) as error:
        sys.stderr.write(f"{error}\n")
    os.execv(command[0], command)  # noqa: S606 - the owner chose this command


if __name__ == "__main__":
    main(sys.argv[1:])
