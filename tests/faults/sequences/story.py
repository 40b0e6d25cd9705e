"""A sequence of runs with `--plan-reuse`, and what happens to the suite between them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import psutil

from tests.faults.sequences.suite import MOST_STEPS, Suite

_LONGEST = 90  # seconds that a run may take
_BUSY = ("is in use", "is being cleaned up")  # by the reaper of a killed run


class Sequence:
    """Plays one sequence in a folder.

    Args:
        seed: decides what happens.
        folder: an empty folder.

    Attributes:
        happened: what was done, one line each.
        wrong: what should not be.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self._random = Random(seed)
        self._folder = folder
        self._suite = Suite()
        self._seen: dict[str, str] = {}  # the values of the last run, by step
        self._output = ""
        self.happened: list[str] = []
        self.wrong: list[str] = []
        for _ in range(self._random.randint(2, MOST_STEPS - 1)):
            self._suite.add(self._random)

    def play(self, runs: int) -> None:
        """Run, change something, and run again; stop at the first thing that is wrong."""
        stale = {step.name for step in self._suite.steps}
        for _ in range(runs):
            self._suite.write(self._folder)
            self._run_and_check(stale)
            if self.wrong:
                return
            stale = self._suite.below(self._change())
        self.end()

    def _run_and_check(self, stale: set[str]) -> None:
        kept = {name: value for name, value in self._seen.items() if name not in stale}
        workers = self._random.choice([(), (), ("-p", "xdist", "-n", "2")])
        status = self._pytest("--plan-reuse", *workers)
        self.happened.append(f"run {' '.join(workers)}: {status}")
        if status:
            self.wrong.append(f"exit status {status}")
            return
        self._seen = json.loads((self._folder / "seen.json").read_text())
        for name, value in kept.items():
            if name in self._seen and self._seen[name] != value:
                self.wrong.append(f"{name} was rebuilt without need")
        self._check_world()
        self._check_log()

    def _check_world(self) -> None:
        """Compare what is there with what a run would make from nothing."""
        world = {file.name: json.loads(file.read_text()) for file in self._world()}
        self._expect(world.keys() == set(self._seen.values()), f"in the world: {sorted(world)}")
        for step in self._suite.steps:
            facts = world.get(self._seen[step.name])
            if facts is None:
                continue
            needs = {need: self._seen[need] for need in step.needs}
            made = (facts["version"], facts["input"], facts["needs"])
            now = (step.version, str(step.input), needs)
            self._expect(made == now, f"{step.name} is {made}, not {now}")
            if step.has_program:
                self._expect(psutil.pid_exists(facts["pid"]), f"{step.name} has no program")

    def _check_log(self) -> None:
        """Each resource was made once; each that is gone was undone once, and saw its needs."""
        lines = [line.split() for line in (self._folder / "log.txt").read_text().splitlines()]
        made = {line[1]: line[2:] for line in lines if line[0] == "made"}
        undone = Counter(line[1] for line in lines if line[0] == "undone")
        gone = made.keys() - set(self._seen.values())
        self._expect(undone == Counter(gone), f"undone: {undone}, gone: {sorted(gone)}")
        for line in lines:
            if line[0] == "undone":
                self._expect(line[2:] == made[line[1]], f"{line[1]} saw {line[2:]} when undone")

    def _expect(self, condition: object, text: str) -> None:
        if not condition:
            self.wrong.append(text)

    def _change(self) -> set[str]:
        """Change something, or several things; return the steps that must be rebuilt."""
        changes = [self._edit, self._edit_input, self._kill_program, self._kill_run]
        changes += [self._add, self._remove, set]
        stale: set[str] = set()
        for change in self._random.sample(changes, self._random.choice([1, 1, 2])):
            stale |= change()
        return stale

    def _pick(self) -> str:
        return self._random.choice(self._suite.steps).name

    def _edit(self) -> set[str]:
        name = self._pick()
        self._suite.of(name).version += 1
        self.happened.append(f"edited {name}")
        return {name}

    def _edit_input(self) -> set[str]:
        name = self._pick()
        self._suite.of(name).input += 1
        self.happened.append(f"edited the input of {name}")
        return {name}

    def _add(self) -> set[str]:
        if len(self._suite.steps) >= MOST_STEPS:
            return set()
        name = self._suite.add(self._random)
        self.happened.append(f"added {name}")
        return {name}

    def _remove(self) -> set[str]:
        """Remove a step and what needs it. Their undo is a deferred call, which needs no step."""
        name = self._pick()
        gone = self._suite.users_of(name)
        left = [step for step in self._suite.steps if step not in gone]
        if not left or not all(step.defers for step in gone):
            return set()
        stale = self._suite.below({step.name for step in gone})
        self._suite.steps = left
        self.happened.append(f"removed {', '.join(step.name for step in gone)}")
        return stale & {step.name for step in left}

    def _kill_program(self) -> set[str]:
        names = [step.name for step in self._suite.steps if step.has_program]
        names = [name for name in names if name in self._seen]
        if not names:
            return set()
        name = self._random.choice(names)
        # The reaper of a killed run may have removed both.
        with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
            pid = json.loads((self._folder / "world" / self._seen[name]).read_text())["pid"]
            process = psutil.Process(pid)
            process.kill()
            process.wait(10)
        self.happened.append(f"killed the program of {name}")
        return {name}

    def _kill_run(self) -> set[str]:
        """Kill a run in a step that it rebuilds; nothing of it may be reused.

        No step with a `cleanup` hook may run at that time. Its hook takes its value, which the
        journal does not have until the step has ended, so nothing could undo it.
        """
        names = [step.name for step in self._suite.steps if self._suite.may_die_in(step)]
        if not names:
            return set()
        name = self._random.choice(names)
        self._suite.of(name).version += 1
        self._suite.write(self._folder)
        status = self._pytest("--plan-reuse", KILLED_IN=name)
        self.happened.append(f"killed a run in {name}: {status}")
        return {step.name for step in self._suite.steps}

    def end(self) -> None:
        """Clean up, and check that nothing is left."""
        status = self._pytest("--plan-cleanup")
        self._seen = {}
        self._expect(status == 0, f"--plan-cleanup exited with status {status}")
        self._expect(not self._world(), f"left in the world: {self._world()}")
        self._check_log()

    def _world(self) -> list[Path]:
        return sorted((self._folder / "world").iterdir())

    def _pytest(self, *args: str, **variables: str) -> int:
        """Run pytest, again while the reaper of a killed run is at work; return its status."""
        command = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-p", "no:cacheprovider"]
        environ = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **variables}
        until = time.monotonic() + _LONGEST
        while True:
            done = subprocess.run(
                [*command, *args],
                cwd=self._folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_LONGEST,
                check=False,
            )
            self._output = done.stdout
            if not any(busy in done.stdout for busy in _BUSY) or time.monotonic() > until:
                return done.returncode

    def told(self) -> str:
        """Return what happened, and the output of the last run."""
        return "\n".join((*self.happened, self._output, *self.wrong))
