"""Playbooks of Ansible."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_plan.engine.calls.context import Context, starter_of
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.engine.shared.programs.started import Command
from pytest_plan.steps.servers.programs import Kind, find_program, private_file

KIND = Kind(
    title="Ansible",
    program="ansible-playbook",
    install="pip install ansible-core",
    folders=[os.path.dirname(sys.executable)],
    asks=(),
)
_MOST_FAILURES = 3  # how many failed tasks a message has
_TASK = re.compile(r"^(?:TASK|RUNNING HANDLER) \[(.*)\] \*+$")
_FAILED = re.compile(r"^(?:fatal|failed): \[([^\]]*)\](?:: (\w+)!)?(?: \(item=.*?\))? => (.*)$")
_IGNORED = "...ignoring"
_LOUD = ("stderr", "stdout", "module_stderr", "module_stdout")  # the output of a failed command


def playbook(
    ctx: Context,
    file: str | os.PathLike[str],
    inventory: str | os.PathLike[str],
    *,
    variables: Mapping[str, Any] | None = None,
) -> None:
    """Run a playbook of Ansible. Its output goes to the step's log.

    The file `ansible.cfg` beside the playbook counts. The variables `ANSIBLE_*` of the environment
    and the settings of the user and of the system do not. Cleanup does not undo what the playbook
    has done: run another one in the `cleanup` hook.

    Args:
        ctx: the `ctx` of the hook.
        file: the playbook; a relative path is relative to the working directory.
        inventory: the inventory: a file, a folder, or names of hosts with a comma after each.
        variables: variables for the playbook, which must be JSON; None means none.

    Raises:
        PlanDefinitionError: an argument is invalid; nothing was run.
        FileNotFoundError: Ansible is not installed.
        RuntimeError: a task has failed; the message has its name, the host and the error.
        PlanError: the hook must stop; see `Context.check`.
    """
    path = _existing(file, "file")
    hosts = inventory if _is_list_of_hosts(inventory) else _existing(inventory, "inventory")
    given = _as_json(variables or {})
    program = find_program(KIND)
    words = [str(program.path), "--inventory", str(hosts)]
    if variables:
        private = private_file(ctx.tmp_path / "variables.json", given, None)
        words += ["--extra-vars", f"@{private}"]
    starter = starter_of(ctx)
    # Not `ctx.run`: the log shows each task while the playbook runs, and the SSH connections that
    # Ansible leaves open may end at any time.
    started = starter.start(
        Command([*words, str(path)], env=_environment(ctx, path), cwd=path.parent, watch=False)
    )
    status = started.first_process.wait()
    ctx.check()
    if status:
        lines = started.output().splitlines()
        what = f"playbook {path.name} exited with status {status}"
        raise RuntimeError("; ".join([what, *_reasons(lines)]))


def _existing(path: object, name: str) -> Path:
    if not isinstance(path, str | os.PathLike) or not Path(path).exists():
        raise PlanDefinitionError(f"playbook: {name} is {path!r}, which does not exist")
    return Path(path).absolute()


def _is_list_of_hosts(inventory: object) -> bool:
    return isinstance(inventory, str) and "," in inventory


def _as_json(variables: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(variables))
    except (TypeError, ValueError) as error:
        raise PlanDefinitionError(f"playbook: variables must be JSON: {error}") from None


def _environment(ctx: Context, path: Path) -> dict[str, str | None]:
    """Return the variables that isolate Ansible from the user's own settings."""
    config = path.with_name("ansible.cfg")
    if not config.is_file():
        config = ctx.tmp_path / "ansible.cfg"
        config.touch()
    return {
        **dict.fromkeys(name for name in os.environ if name.startswith("ANSIBLE_")),
        "ANSIBLE_CONFIG": str(config),
        "ANSIBLE_LOCAL_TEMP": str(ctx.tmp_path / "ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_RETRY_FILES_ENABLED": "0",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(ctx.tmp_path / "ssh"),
        "LC_ALL": "C.UTF-8",  # Ansible refuses other encodings
        "TMPDIR": str(ctx.tmp_path),  # modules that are killed leave files there
    }


def _reasons(lines: Sequence[str]) -> list[str]:
    """Return what to say about the failed tasks, or else the first error."""
    if failures := list(_failures(lines)):
        more = len(failures) - _MOST_FAILURES
        return failures[:_MOST_FAILURES] + ([f"and {more} more"] if more > 0 else [])
    return [line.strip() for line in lines if "ERROR" in line][:1]


def _failures(lines: Sequence[str]) -> Iterator[str]:
    task = ""
    for number, line in enumerate(lines):
        if found := _TASK.match(line):
            task = found[1]
        is_ignored = _IGNORED in lines[number + 1 : number + 2]
        if (found := _FAILED.match(line)) and not is_ignored:
            host, kind, result = found.groups()
            how = "cannot be reached" if kind == "UNREACHABLE" else "failed"
            yield f"task {task!r} {how} on {host}: {_error_in(result)}"


def _error_in(result: str) -> str:
    """Return the error in the result of a task, with the output of a failed command."""
    try:
        found = json.loads(result)
    except ValueError:
        return " ".join(result.split())
    texts = [found.get("msg", ""), *(found.get(name, "") for name in _LOUD)]
    return " | ".join(" ".join(str(text).split()) for text in texts if text) or result
