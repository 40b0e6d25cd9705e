"""Recovery: what it asks and reports by its callbacks, and what it does without any."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

from pytest_plan import Plan
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.environments.environment import Environment, names
from pytest_plan.engine.environments.recovery import Recovery, RecoveryCallbacks, Revive, recover
from pytest_plan.engine.execution.restore import Restorer
from pytest_plan.engine.execution.run import Run, revive
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.reader import Recorded, RecordedStep
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.plan import definition_of
from tests.engine.support import journals

CLEANED: list[str] = []


@pytest.fixture
def plan() -> Plan:
    """A plan whose one step notes its cleanup."""
    CLEANED.clear()
    plan = Plan()
    plan.add_step(GenericStep(exec=lambda: None, cleanup=lambda: CLEANED.append("db")), name="db")
    return plan


@pytest.fixture
def parent(tmp_path: Path, plan: Plan) -> Path:
    """A folder with three environments, the oldest first: held, broken and left."""
    parent = tmp_path / "plan"
    steps = {"db": GenericStep(exec=lambda: None, cleanup=lambda: None)}
    for age, name in enumerate(("left", "broken", "held")):
        environment = Environment(parent, name)
        journals.left(tmp_path / name, environment.file, steps)
        journals.settle(environment.file)
        if name == "broken":
            environment.file.write_text("no journal")
        environment.release()
        os.utime(environment.file, (1000 - age, 1000 - age))
    return parent


class Noting(RecoveryCallbacks):
    """Notes each call, and goes on after an error."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    def skips(self, name: str) -> bool:
        """Skip none."""
        self.noted.append(f"{name} found")
        return False

    def skips_recorded(self, environment: Environment, recorded: Recorded) -> bool:
        """Skip none."""
        self.noted.append(f"{environment.name} read")
        return False

    def in_use(self, name: str) -> None:
        """Note it."""
        self.noted.append(f"{name} in use")

    def failed(self, name: str, environment: Environment | None, error: JournalError) -> None:
        """Note it and raise nothing."""
        assert environment is not None
        self.noted.append(f"{name} failed")

    def begins(self, environment: Environment, recorded: Recorded, gone: Mapping[str, str]) -> None:
        """Note it."""
        self.noted.append(f"{environment.name} begins")

    def load(self, recorded: Recorded) -> None:
        """Note it."""
        self.noted.append("load")

    @contextlib.contextmanager
    def running(self, run: Run) -> Iterator[None]:
        """Note begin and end."""
        self.noted.append("run begins")
        yield
        self.noted.append("run ends")

    def remains(self, environment: Environment, due: Collection[RecordedStep]) -> bool:
        """Note it."""
        self.noted.append(f"{environment.name} has {len(due)} steps left")
        return bool(due)


def revived(plan: Plan) -> Revive:
    """Return what makes runs of recorded steps for the plan."""
    options = definition_of(plan).options

    def make(restorer: Restorer, journal: Journal) -> Run:
        return revive(restorer, options, journal, clock=SystemClock(), listeners=[])

    return make


def recovery(parent: Path, plan: Plan, callbacks: RecoveryCallbacks) -> Recovery:
    """Return a recovery by the plan's steps."""
    return Recovery(
        parent,
        definition_of(plan).steps,
        journals.references(),
        revived(plan),
        callbacks,
    )


def test_callbacks_are_notified_of_each_environment(parent: Path, plan: Plan) -> None:
    """One in use and one that cannot be read are reported and left; the next is cleaned up."""
    callbacks = Noting()
    held = Environment(parent, "held")
    recovery(parent, plan, callbacks).clean_up_all()
    held.release()
    assert callbacks.noted == [
        "held found",
        "held in use",
        "broken found",
        "broken failed",
        "left found",
        "left read",
        "left begins",
        "load",
        "run begins",
        "run ends",
        "left has 0 steps left",
    ]
    assert CLEANED == ["db"]
    assert names(parent) == ["held", "broken"]


def test_callbacks_skip_by_name_and_by_journal(parent: Path, plan: Plan) -> None:
    """A skipped environment is not touched."""

    class Skipping(Noting):
        def skips(self, name: str) -> bool:
            return name != "left"

        def skips_recorded(self, environment: Environment, recorded: Recorded) -> bool:
            return list(recorded.steps) == ["db"]

    callbacks = Skipping()
    recovery(parent, plan, callbacks).clean_up_all()
    assert (callbacks.noted, CLEANED) == ([], [])
    assert names(parent) == ["held", "broken", "left"]


def test_environment_stays_when_a_callback_says_so(parent: Path, plan: Plan) -> None:
    """Even with nothing left of it."""

    class Staying(Noting):
        def remains(self, environment: Environment, due: Collection[RecordedStep]) -> bool:
            return True

    recovery(parent, plan, Staying()).clean_up_all()
    assert CLEANED == ["db", "db"]
    assert sorted(names(parent)) == ["broken", "held", "left"]


def test_a_script_goes_on_beside_a_journal_of_others(tmp_path: Path, plan: Plan) -> None:
    """It is a warning that names the journal, which is neither followed nor changed."""
    other = Environment(tmp_path, "run-1", Key("0" * 64))
    other.open(journals.references(), lambda name: "").close()
    other.release()
    before = other.file.read_bytes()
    with pytest.warns(UserWarning, match="not sealed with the key of this user") as warned:
        recover(tmp_path, definition_of(plan).steps, revived(plan))
    assert str(other.file) in str(warned[0].message)
    assert (other.file.read_bytes(), CLEANED) == (before, [])


def test_a_script_gets_the_first_error(parent: Path, plan: Plan) -> None:
    """The environments before it are cleaned up; it and those after it are as they were."""
    with pytest.raises(JournalError, match="broken"):
        recover(
            parent,
            definition_of(plan).steps,
            revived(plan),
        )
    assert CLEANED == ["db"]
    assert names(parent) == ["broken", "left"]
