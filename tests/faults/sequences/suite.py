"""A suite whose steps are drawn and edited: what it consists of, and its files."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

MOST_STEPS = 6

_HEAD = '''\
import json, os, pathlib, signal, sys, uuid
import pytest

HERE = pathlib.Path(__file__).parent
WORLD = HERE / "world"


def note(*words):
    with (HERE / "log.txt").open("a") as file:
        file.write(" ".join(map(str, words)) + "\\n")


def create(ctx, state, *, defers, **facts):
    """Create a resource outside; it must find nothing of an earlier one of the same step."""
    key = f"key_{ctx.step}"
    assert key not in state, f"{key} is still in the State"
    assert f"VAR_{ctx.step}" not in os.environ, f"VAR_{ctx.step} is still set"
    (ctx.tmp_path / "once").mkdir()
    made = f"{ctx.step}-{uuid.uuid4().hex[:8]}"
    ctx.setenv(f"VAR_{ctx.step}", made)
    if defers:
        ctx.defer(remove, made, *facts["needs"].values())
    note("made", made, *facts["needs"].values())
    (WORLD / made).write_text(json.dumps(facts))
    state[key] = made
    if os.environ.get("KILLED_IN") == ctx.step:
        os.kill(os.getpid(), signal.SIGKILL)
    return made


def remove(made, *needs):
    """Remove a resource; it must see what its step saw."""
    step = made.partition("-")[0]
    assert os.environ[f"VAR_{step}"] == made
    # A run that was killed in another step may have died just before it made this resource.
    if f"made {made}" in (HERE / "log.txt").read_text():
        (WORLD / made).unlink(missing_ok=True)
        note("undone", made, *needs)

'''
_STEP = """
def read_{name}():
    return (HERE / "{name}.txt").read_text()


@pytest.mark.plan_step({options})
def {name}({parameters}):
    made = create(
        ctx, state, defers={defers}, version={version}, input=read_{name}(), needs=dict({needs})
    )
    {program}
    return made
"""
_HOOK = """

def drop_{name}(value, {parameters}):
    remove(value, {parameters})
"""
_TEST = """\
import json, os

def test_all({names}, plan):
    seen = dict({values})
    assert seen == {{name: os.environ["VAR_" + name] for name in seen}}
    assert seen == {{name: plan.state["key_" + name] for name in seen}}
    with open(os.path.join(os.path.dirname(__file__), "seen.json"), "w") as file:
        json.dump(seen, file)

def test_other({names}): pass
"""
_PROGRAM = (
    'process = ctx.start([sys.executable, "-c", "import time; time.sleep(600)"])\n'
    "    (WORLD / made).write_text(json.dumps(json.loads((WORLD / made).read_text())"
    ' | {"pid": process.pid}))'
)


class Edges(enum.Enum):
    """What a step waits for."""

    NEEDS = "its needs"
    LIST = "every step above it"


@dataclass(slots=True)
class DrawnStep:
    """One step of the suite.

    Attributes:
        name: its name.
        needs: the steps whose values it takes.
        edges: what it waits for in addition.
        has_program: whether it starts a program that must keep running.
        defers: whether a deferred call undoes it, else a `cleanup` hook.
        version: a number in its code.
        input: the text of the file in its `inputs`.
    """

    name: str
    needs: tuple[str, ...]
    edges: Edges
    has_program: bool
    defers: bool
    version: int = 0
    input: int = 0

    def source(self) -> str:
        """Return the code of the step."""
        pairs = ", ".join(f"{need}={need}" for need in self.needs)
        names = ", ".join(self.needs)
        needs = f"needs={list(self.needs)!r}, " if self.edges is Edges.NEEDS else ""
        hook = "" if self.defers else _HOOK.format(name=self.name, parameters=names)
        cleanup = "" if self.defers else f", cleanup=drop_{self.name}"
        step = _STEP.format(
            name=self.name,
            options=f"{needs}inputs='{self.name}.txt'{cleanup}",
            parameters=", ".join(("ctx", "state", *self.needs)),
            version=self.version,
            defers=self.defers,
            needs=pairs,
            program=_PROGRAM if self.has_program else "",
        )
        return hook + step


@dataclass(slots=True)
class Suite:
    """The steps in the order of their declaration."""

    steps: list[DrawnStep] = field(default_factory=list)
    _count: int = 0

    def add(self, random: Random) -> str:
        """Draw one more step and return its name."""
        self._count += 1
        known = [step.name for step in self.steps]
        needs = tuple(sorted(random.sample(known, min(len(known), random.choice([0, 1, 1, 2])))))
        # A step that takes the value of another one has given up its place in the list.
        edges = Edges.NEEDS if needs else random.choice(list(Edges))
        has_program, defers = random.random() < 0.4, random.random() < 0.6
        step = DrawnStep(f"s{self._count}", needs, edges, has_program, defers)
        self.steps.append(step)
        return step.name

    def users_of(self, name: str) -> list[DrawnStep]:
        """Return this step and the steps that take its value, directly or indirectly."""
        found = {name}
        for step in self.steps:
            if found.intersection(step.needs):
                found.add(step.name)
        return [step for step in self.steps if step.name in found]

    def of(self, name: str) -> DrawnStep:
        """Return the step with this name."""
        return next(step for step in self.steps if step.name == name)

    def below(self, stale: set[str]) -> set[str]:
        """Return these steps and all that need or follow one of them, directly or indirectly."""
        found = set(stale)
        for number, step in enumerate(self.steps):
            above = {one.name for one in self.steps[:number]}
            waits_for = set(step.needs) if step.edges is Edges.NEEDS else above
            if found & waits_for:
                found.add(step.name)
        return found

    def may_die_in(self, step: DrawnStep) -> bool:
        """Return whether deferred calls undo this step and all that may run at the same time."""
        apart = self.below({step.name})
        apart |= {one.name for one in self.steps if step.name in self.below({one.name})}
        return step.defers and all(one.defers for one in self.steps if one.name not in apart)

    def write(self, folder: Path) -> None:
        """Write the files of the suite."""
        names = [step.name for step in self.steps]
        sources = "".join(step.source() for step in self.steps)
        values = ", ".join(f"{name}={name}" for name in names)
        (folder / "world").mkdir(exist_ok=True)
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "conftest.py").write_text(_HEAD + sources)
        (folder / "test_it.py").write_text(_TEST.format(names=", ".join(names), values=values))
        for step in self.steps:
            (folder / f"{step.name}.txt").write_text(str(step.input))
