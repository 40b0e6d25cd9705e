"""Sessions of pytest that begin within a millisecond: forks of a process with all imports done.

Run `python -m tests.faults.harness.rivals STORY COUNT` in the project's folder. It prints one line
for each repetition: the exit statuses, in the order in which the sessions ended. The output of each
session is in its own file.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.engine.support.journals import settle
from tests.faults.harness import fakes

PLANS, DEAD = Path(".pytest_plan"), Path("dead")
PLAIN = ["-p", "pytest_plan", "-p", "no:xdist", "-o", "plan_reaper=false"]


def race(args: list[str], count: int = 2) -> dict[int, int]:
    """Start `count` sessions at once; return their exit statuses by pid, in the order they end.

    When all sessions but one have ended, the last one is released from its `hold` faults.
    """
    release = Path(os.environ[fakes.RELEASE])
    release.unlink(missing_ok=True)
    gate, opener = os.pipe()
    for _ in range(count):
        if os.fork() == 0:
            os.close(opener)
            _become(args, gate)
    os.close(gate)
    os.close(opener)  # starts all sessions
    statuses: dict[int, int] = {}
    while len(statuses) < count:
        if len(statuses) == count - 1:
            release.touch()
        pid, status = os.wait()
        statuses[pid] = os.waitstatus_to_exitcode(status)
    return statuses


def _become(args: list[str], gate: int) -> None:
    output = os.open(f"said.{os.getpid()}", os.O_CREAT | os.O_WRONLY, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.read(gate, 1)  # returns when the last writer of the pipe is closed
    status = pytest.main([*PLAIN, *args])
    sys.stdout.flush()
    os._exit(status)


def runs(count: int) -> None:
    """Start two runs that want the same named environment, again and again."""
    for _ in range(count):
        statuses = race(["--plan-environment=staging"])
        said = [Path(f"said.{pid}").read_text() for pid in statuses]
        (_, first), (winner, last) = statuses.items()
        named = f"in use by process {winner} on {os.uname().nodename} for " in said[0]
        _say(f"{first} {last} {'named' if named else 'unnamed'}")


def recoveries(count: int) -> None:
    """Start three cleanups after the same dead run, again and again."""
    shutil.copytree(PLANS, DEAD)
    for _ in range(count):
        for file in PLANS.glob("environments/*/journal.sqlite"):
            settle(file)
        statuses = race(["--plan-cleanup"], 3)
        end = "left" if list(PLANS.glob("environments/*")) else "gone"
        _say(f"{' '.join(map(str, statuses.values()))} {end}")
        shutil.copytree(DEAD, PLANS, dirs_exist_ok=True)
    shutil.rmtree(PLANS)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()  # or forked processes would inherit the buffered text


if __name__ == "__main__":
    {"runs": runs, "recoveries": recoveries}[sys.argv[1]](int(sys.argv[2]))
