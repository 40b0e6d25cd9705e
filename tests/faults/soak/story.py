"""Plays a random run: starts it, sends its signals at events of its history, and has it judged."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.faults.harness.scenario import PATIENCE, Run, Story
from tests.faults.soak import checker, outside, project
from tests.faults.soak.checker import Ended
from tests.faults.soak.plans import Drawn, Shot
from tests.faults.soak.steps import OUTSIDE

BOUND = PATIENCE  # seconds from one expected event to the next
PLAIN = ("-m", "pytest", "-p", "pytest_plan", "-p", "no:cacheprovider")
_SETTLE = 3.0  # seconds within which everything of a run that has ended must be gone
_REAPED = 15.0  # the same, if the reaper must clean up first
_QUIET = 0.3  # seconds without any process of the run

Injected = Counter[str]


def play(
    run: Run, drawn: Drawn, injected: Injected, *, plant: str = "", bound: float = BOUND
) -> Story:
    """Play the run; add what was injected, and all violations.

    Args:
        run: a fresh run.
        drawn: what is to happen.
        injected: counts of what has happened, by kind.
        plant: text to append to the conftest; a planted fault.
        bound: the number of seconds within which the run must end after its last signal.
    """
    try:
        yield from _play(run, drawn, injected, plant, bound)
    finally:
        for process in outside.processes(run._mark, run.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


def _play(run: Run, drawn: Drawn, injected: Injected, plant: str, bound: float) -> Story:
    project.write(run.folder, drawn)
    conftest = run.project / "conftest.py"
    conftest.write_text(conftest.read_text() + plant)
    env = {OUTSIDE: str(run.folder / "outside")}
    run.start(*drawn.arguments, env=env, argv=PLAIN)
    ended = Ended(drawn, run.folder, run._mark)
    for shot in drawn.shots:
        yield _has_events(run, shot.event)
        yield _after(shot.delay)
        _send(run, shot, ended)
    last = time.monotonic()
    yield lambda: run.ended() or time.monotonic() > last + bound
    if run.status is None:
        run.wrong.append(f"it had not ended after {bound} s")
        return
    ended.status, ended.output, ended.history = run.status, run.output(), run.history
    yield from _settled(run, _REAPED if ended.is_handed_over else _SETTLE)
    ended.history = run.history
    if ended.is_handed_over:
        run.wrong += checker.left(ended, by_reaper=True)
        (run.folder / "output").rename(run.folder / "output of the run")
        run.start("--plan-cleanup", env=env, argv=PLAIN)
        yield run.ended
        ended.recovered = run.output()
        if run.status not in (0, 1):
            run.wrong.append(f"--plan-cleanup exited with status {run.status}")
    ended.history = sorted(run.history, key=lambda line: line.time)
    run.wrong += checker.violations(ended)
    count(ended, injected)


def count(ended: Ended, injected: Injected) -> None:
    """Add what was injected into a run that has ended."""
    kinds = {step.name: step.kind for step in ended.drawn.steps}
    injected["run with workers" if ended.drawn.workers else "run solo"] += 1
    begun = {line.words[0] for line in ended.history if line.what == "begin"}
    injected.update(f"step {kinds[name]}" for name in begun)
    for what in ("program", "fault", "mishap"):
        for words in ended.notes(what):
            name, _, kind = words.partition(" ")
            where = "program" if what == "program" else "fault test"
            where = where if what == "program" or name == "test" else "fault step"
            injected[f"{where} {kind}"] += 1
    for shot, _ in ended.sent:
        injected[f"{signal.Signals(shot.number).name} to the {shot.target}"] += 1


def _send(run: Run, shot: Shot, ended: Ended) -> None:
    if run.ended():
        return
    if shot.target != "worker":
        ended.sent.append((shot, time.monotonic()))
        run.signal(shot.number, group=shot.target == "group")
        return
    workers = [line.pid for line in run.history if line.what == "worker"]
    for pid in [pid for pid in workers if Path(f"/proc/{pid}").exists()][:1]:
        ended.sent.append((shot, time.monotonic()))
        run.kill(psutil.Process(pid), shot.number)


def _settled(run: Run, longest: float) -> Story:
    """Wait until nothing of the run is alive, for as long as it may take."""
    begun = quiet_since = time.monotonic()
    mark, folder = run._mark, run.folder

    def is_over() -> bool:
        nonlocal quiet_since
        now = time.monotonic()
        if not checker.is_quiet(folder, mark, checker.ports_of(run.history)):
            quiet_since = now
        return now - quiet_since > _QUIET or now - begun > longest

    yield is_over


def _has_events(run: Run, number: int) -> Callable[[], bool]:
    return lambda: len(run.history) >= number or run.ended()


def _after(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until
