"""The program that the reaper becomes once its owner has ended.

`python -m pytest_plan.engine.environments.reap JOURNAL COMMAND...` ends every process tree that no
remaining cleanup depends on. It then becomes COMMAND, which cleans up the rest in reverse order.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_plan.engine.journal.reader import Recorded, read
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.processes.orphan import OrphanTree, orphan_tree
from pytest_plan.engine.processes.tree import KILL


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


def main(arguments: list[str]) -> Any:
    """End process trees, then become the command that cleans up the rest.

    If the environment is kept, or if another running process owns it, leave its trees alone.
    """
    journal, *command = arguments
    try:
        recorded = read(Path(journal), Key.of(os.environ))
        recorded.check_place()
        is_taken = recorded.owner is not None and recorded.owner.is_alive()
        if not recorded.is_kept and not is_taken:
            end_trees(recorded)
        os.chdir(recorded.facts["launch"]["cwd"])
    except (JournalError, LookupError, OSError) as error:
        sys.stderr.write(f"{error}\n")
    os.execv(command[0], command)  # noqa: S606 - the owner chose this command


if __name__ == "__main__":
    main(sys.argv[1:])
