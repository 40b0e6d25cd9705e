"""Plays one run of the soak, and compares the steps that were lost with those that had to be."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

from tests.faults.watching.project import CONFTEST, FATES, LAST, STEP, TEST, TESTS

QUIET, DEADLY = 20, 2  # steps of one run
BOUND = 180.0  # seconds after which a run hangs
_ROOT = Path(__file__).parents[3]


class Drawn(NamedTuple):
    """A run: the fate of each step, how pytest is called, and when a signal interrupts it.

    Attributes:
        seed: the number of the run.
        fates: the fate of each step, by the name of the step.
        arguments: the arguments of pytest.
        interrupted_after: the seconds after which SIGINT is sent; None for most runs.
    """

    seed: int
    fates: dict[str, str]
    arguments: tuple[str, ...]
    interrupted_after: float | None


def draw(seed: int) -> Drawn:
    """Return the run of a seed."""
    chance = random.Random(seed)
    quiet = [name for name, fate in FATES.items() if not fate.is_deadly]
    deadly = [name for name, fate in FATES.items() if fate.is_deadly]
    fates = [chance.choice(quiet) for _ in range(QUIET)]
    fates += [chance.choice(deadly) for _ in range(DEADLY)]
    chance.shuffle(fates)
    workers = ("-p", "xdist", "-n", "2") if chance.random() < 0.3 else ()
    cut = chance.uniform(0.5, 3.0) if chance.random() < 0.1 else None
    return Drawn(seed, {f"s{n}": fate for n, fate in enumerate(fates)}, workers, cut)


def play(drawn: Drawn, folder: Path, plant: str = "") -> list[str]:
    """Play a run in an empty folder; return what is wrong.

    Args:
        drawn: the run.
        folder: the folder.
        plant: the source of a fault, for the end of the conftest.
    """
    _write(drawn, folder, plant)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_plan", "--plan-report=r.json"]
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": str(_ROOT),
    }
    with (folder / "out.txt").open("w") as out:
        process = subprocess.Popen(
            [*words, *drawn.arguments], cwd=folder, env=variables,
            stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
        if drawn.interrupted_after is not None:
            try:
                process.wait(drawn.interrupted_after)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
        try:
            status = process.wait(BOUND)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return [f"it had not ended after {BOUND} s"]
    return list(_violations(drawn, folder, status))


def _violations(drawn: Drawn, folder: Path, status: int) -> list[str]:
    report = folder / "r.json"
    if drawn.interrupted_after is not None and not report.exists():
        return []  # the signal came before the plan began
    steps = json.loads(report.read_text())["steps"]
    lost = {step["name"] for step in steps if step["lost"] is not None}
    deadly = {name for name, fate in drawn.fates.items() if FATES[fate].is_deadly}
    wrong = [f"{name} ({drawn.fates[name]}) was lost" for name in sorted(lost - deadly)]
    if drawn.interrupted_after is None:
        wrong += [f"{name} ({drawn.fates[name]}) was not lost" for name in sorted(deadly - lost)]
        if status != 1:
            wrong.append(f"exit status {status}, not 1")
    if "INTERNALERROR" in (folder / "out.txt").read_text():
        wrong.append("INTERNALERROR in the output")
    return wrong


def _write(drawn: Drawn, folder: Path, plant: str) -> None:
    conftest, tests = CONFTEST, TESTS.format(seed=drawn.seed)
    for name, label in drawn.fates.items():
        fate = FATES[label]
        before, _, tail = fate.step.partition("\nyield\n")
        keys = f"ctx.state['{name} pid'] = pid"
        lines = [before.replace("'fifo'] =", f"'{name} fifo'] ="), keys]
        if tail:
            lines += ["yield", tail]
        body = textwrap.indent("\n".join(lines), "    ")
        conftest += STEP.format(name=name, options=fate.options, body=body)
        tests += TEST.format(name=name, act=fate.test.replace("'fifo'", f"'{name} fifo'"))
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(conftest + plant)
    (folder / "test_it.py").write_text(tests + LAST)
