"""Rows 87 to 92: journals that are forged, damaged, mixed up, or no files at all.

With the variable `FORGED_JOURNALS=10000` and `--timeout 0`, this is the long form.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zoneinfo
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pytest_plan import GenericStep, Plan
from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.environments.environment import Environment
from pytest_plan.engine.environments.recovery import recover
from pytest_plan.engine.execution.run import revive
from pytest_plan.engine.journal.reference import References
from pytest_plan.engine.journal.schema import connect, place_of, reopen, replace
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.model.errors import JournalError
from pytest_plan.engine.plan import begin, definition_of
from pytest_plan.engine.processes.identity import Identity, identify
from tests.faults.harness.forgeries import FILES, Due, Evidence, Forgery, apply, forgeries
from tests.faults.harness.scenario import Tally

INPUTS = int(os.environ.get("FORGED_JOURNALS", "400"))
LONGEST = 30  # real seconds for one journal
KEY = Key("5e" * 32)
UNDONE: list[str] = []
EVIL: list[str] = []


class Colour(enum.Enum):
    """A value whose class must be looked up."""

    RED = "red"


@dataclasses.dataclass
class Server:
    """A value whose class must be looked up, and made without `__init__`."""

    colour: Colour


def undo(word: str) -> None:
    """What the steps have deferred."""
    UNDONE.append(word)


def evil(word: str) -> None:
    """What forged rows call."""
    EVIL.append(word)


class World:
    """A killed run with a journal, and what forged rows name.

    Args:
        folder: the folder for all of it.

    Attributes:
        folder: the folder.
        evidence: what forged rows name.
        expected: what is undone if the journal is followed.
        counts: how many journals of each kind were followed and refused.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._precious = folder / "plan-precious"
        self._precious.mkdir()
        (self._precious / "data").write_text("keep this")
        (folder / "evil_module.py").write_text("import sys; sys.evil = True\n")
        self._bystander = subprocess.Popen(["/bin/sleep", "1000"])
        self.expected: list[str] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.plan = self._plan(undo)
        self._template = self._left(self.plan)
        self.evidence = Evidence(self._left(self._plan(evil)), self._forged())

    def close(self) -> None:
        """End the bystander."""
        self._bystander.kill()
        self._bystander.wait()

    def _plan(self, deferred: Any) -> Plan:
        def make(ctx: Context) -> Server:
            ctx.defer(deferred, f"{ctx.step} call")
            ctx.setenv(f"FORGED_{ctx.step}", "1")
            return Server(Colour.RED)

        def clean(ctx: Context, state: Any) -> None:
            assert state["b"] == Server(Colour.RED)
            deferred(f"{ctx.step} hook")

        def note(state: Any) -> None:
            state["when"] = datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))

        plan = Plan()
        plan.add_step(GenericStep(exec=make), name="a")
        plan.add_step(GenericStep(exec=make, cleanup=clean, post_exec=note), name="b")
        plan.add_step(GenericStep(exec=make), name="c")
        return plan

    def _left(self, plan: Plan) -> dict[str, bytes]:
        """Return the files of the journal of a run that was killed."""
        environment = Environment(self.folder / "made", "run-1", KEY)
        journal = environment.open(References(self.folder), lambda step: "", launch={})
        run = begin(plan, journal=journal)
        run.provision()
        journal.flush()
        files = {}
        for end in FILES[:2]:
            files[end] = Path(f"{environment.file}{end}").read_bytes()
        UNDONE.clear()
        EVIL.clear()
        run.clean_up()
        self.expected = self.expected or list(UNDONE)
        environment.release(remove=True)
        UNDONE.clear()
        EVIL.clear()
        return files

    def _forged(self) -> list[tuple[str, tuple[Any, ...]]]:
        who = identify(self._bystander.pid)
        tree = {"cookie": "x", "signal": 9, "grace": 0, **who._asdict()}
        here = __name__
        call = [[here, "evil", __file__], json.dumps([["forged"], {}])]
        command = [["os", "system", None], json.dumps([[f"touch {self.folder}/evil"], {}])]
        module = [["evil_module", "run", None], json.dumps([[], {}])]
        kind = {"$": "enum", "type": ["evil_module", "Kind", None], "of": "ONE"}
        launch = {
            "conftests": [str(self.folder / "evil_module.py")], "path": [str(self.folder)],
            "plugins": ["evil_module"], "root": "/", "cwd": "/",
        }  # fmt: skip
        rows: list[tuple[str, tuple[Any, ...]]] = [
            ("undo", (1000 + number, "a", "exec", "x", kind, json.dumps(data), 0))
            for number, (kind, data) in enumerate(
                [("tree", tree), ("call", call), ("call", command), ("call", module)]
            )
        ]
        rows.append(("state", ("b", json.dumps(kind), None, "", None, None)))
        rows.append(("environment", ("scratch", json.dumps(str(self._precious)))))
        rows.append(("environment", ("launch", json.dumps(launch))))
        return rows

    def judge(self, forgery: Forgery) -> None:
        """Recover with a forged journal, and check what has happened."""
        parent = Path(tempfile.mkdtemp(prefix="f", dir=self.folder))
        file = parent / "environments" / "run-1" / "journal.sqlite"
        try:
            put(file, self._template)
            due = apply(forgery, file, self.evidence)
            before = _contents(file)
            UNDONE.clear()
            with _bounded(), contextlib.suppress(JournalError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                recover(parent, definition_of(self.plan).steps, self._revived, KEY)
            self._check_undone(due, UNDONE)
            self.check(due, file, before)
            self.counts[forgery.kind, "followed" if UNDONE else "refused"] += 1
        finally:
            shutil.rmtree(parent, ignore_errors=True)  # it is gone if it was followed

    def _revived(self, restorer: Any, journal: Any) -> Any:
        from pytest_plan.engine.model.clock import SystemClock

        options = definition_of(self.plan).options
        return revive(restorer, options, journal, clock=SystemClock(), listeners=[])

    def _check_undone(self, due: Due, undone: list[str]) -> None:
        if due is Due.FOLLOWED:
            assert self.expected == undone
        if due is Due.REFUSED:
            assert undone == []
        rest = iter(self.expected)
        assert all(word in rest for word in undone)  # in this order, each at most once

    def check(self, due: Due, file: Path, before: dict[str, object]) -> None:
        """Check that forged rows had no effect, and that a refused journal is as it was."""
        assert EVIL == []
        assert not hasattr(sys, "evil")
        assert not (self.folder / "evil").exists()
        assert (self._precious / "data").read_text() == "keep this"
        assert self._bystander.poll() is None
        if due is Due.REFUSED:
            assert _contents(file) == before


def put(file: Path, files: dict[str, bytes]) -> None:
    """Put a journal in its place, as a run has left it whose process has ended."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for folder in (file.parent, file.parent.parent, file.parent.parent.parent):
        folder.chmod(0o700)
    for end, content in files.items():
        Path(f"{file}{end}").write_bytes(content)
        Path(f"{file}{end}").chmod(0o600)
    dead = Identity(os.getpid(), "1", "another boot")
    with contextlib.closing(connect(file, reopen(file, KEY)[0])) as connection:
        for name, value in {"place": place_of(file), "owner": dead._asdict()}.items():
            connection.execute(replace("environment"), (name, json.dumps(value)))


def _contents(file: Path) -> dict[str, object]:
    """Return what is in the files of a journal, except the index that each reader rebuilds."""
    found: dict[str, object] = {}
    for end in ("", "-wal", "-journal"):
        path = Path(f"{file}{end}")
        if not os.path.lexists(path) or (end and path.lstat().st_size == 0):
            continue
        is_small = path.is_file() and path.lstat().st_size < 1 << 30 and not path.is_symlink()
        found[end] = path.read_bytes() if is_small else path.lstat().st_mode
    return found


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Fail if the body hangs, for example when it opens a pipe."""

    def fail(*_: object) -> None:
        raise AssertionError(f"it took longer than {LONGEST} seconds")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def world() -> Iterator[World]:
    """The world of a test, in memory, because each journal takes durable writes."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="w", dir=memory))
    world = World(folder)
    yield world
    world.close()
    shutil.rmtree(folder)


def test_g14_no_forged_journal_is_followed(world: World, tally: Tally) -> None:
    """Rows 87 to 92: it runs no code, removes nothing, ends no process and does not hang.

    A journal that differs in nothing that its seals cover is followed.
    """
    phases = [Phase.generate] if INPUTS > 1000 else tuple(Phase)

    @settings(
        max_examples=INPUTS, deadline=None, suppress_health_check=list(HealthCheck), database=None,
        phases=phases,
    )  # fmt: skip
    @given(forgeries)
    def judge(forgery: Forgery) -> None:
        world.judge(forgery)
        tally.faults += 1

    begun = time.monotonic()
    judge()
    followed = sum(count for (_, what), count in world.counts.items() if what == "followed")
    for (kind, what), count in sorted(world.counts.items()):
        sys.stdout.write(f"| {kind} | {what} | {count} |\n")
    seconds = time.monotonic() - begun
    sys.stdout.write(f"{tally.faults} journals, {followed} followed, {seconds:.0f} s\n")
    assert followed >= tally.faults / 10


CONFTEST = """
import os, pytest

@pytest.mark.plan_step
def a(ctx):
    ctx.defer(os.makedirs, os.path.abspath("undone a"), 0o700, True)

@pytest.mark.plan_step
def b(ctx, a):
    ctx.defer(os.makedirs, os.path.abspath("undone b"), 0o700, True)
"""
TEST = """
import os, signal

def test_dies(b):
    if "DIES" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
"""
PLAIN = ("-p", "pytest_plan", "-p", "no:xdist", "-p", "no:cacheprovider", "-o", "plan_reaper=false")


class Project:
    """A project in which a run was killed, and the journal that the run has left.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "conftest.py").write_text(CONFTEST)
        (folder / "test_it.py").write_text(TEST)
        (folder / "pytest.ini").write_text("[pytest]\n")
        assert self.run(DIES="1").returncode == -signal.SIGKILL
        (self.file,) = folder.glob(".pytest_plan/environments/*/journal.sqlite")
        ends = [end for end in FILES[:2] if Path(f"{self.file}{end}").exists()]
        self._template = {end: Path(f"{self.file}{end}").read_bytes() for end in ends}

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run pytest."""
        return subprocess.run(
            [sys.executable, "-m", "pytest", *PLAIN, *arguments], cwd=self.folder, text=True,
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLAN_KEY": KEY.hex,
                 **variables}, capture_output=True, timeout=LONGEST, check=False,
        )  # fmt: skip

    def judge(self, world: World, forgery: Forgery, *, cleans: bool) -> None:
        """Run pytest beside a forged journal, and check what has happened."""
        shutil.rmtree(self.folder / ".pytest_plan", ignore_errors=True)
        put(self.file, self._template)
        due = apply(forgery, self.file, world.evidence)
        before = _contents(self.file)
        done = self.run(*(["--plan-cleanup"] if cleans else []))
        said = done.stdout + done.stderr
        undone = sorted(path.name for path in self.folder.glob("undone*"))
        for name in undone:
            (self.folder / name).rmdir()
        assert "INTERNALERROR" not in said
        assert "Traceback" not in said
        world.check(due, self.file, before)
        if due is Due.FOLLOWED:
            assert undone == ["undone a", "undone b"]
        elif due is Due.REFUSED:
            assert cleans == (undone == [])  # a run undoes its own steps
            assert self.file.parent.name in said
        is_bad = cleans and (due is Due.REFUSED or (due is Due.EITHER and done.returncode))
        assert done.returncode == int(is_bad), said


def test_g14_pytest_goes_on_beside_a_forged_journal(world: World, tally: Tally) -> None:
    """Rows 87 to 92: with a forged journal a run passes, and `--plan-cleanup` exits with 1."""
    folder = world.folder / "project"
    folder.mkdir()
    project = Project(folder)

    @settings(
        max_examples=max(6, INPUTS // 100), deadline=None,
        suppress_health_check=list(HealthCheck), database=None, phases=[Phase.generate],
    )  # fmt: skip
    @given(forgeries, st.booleans())
    def judge(forgery: Forgery, cleans: bool) -> None:
        project.judge(world, forgery, cleans=cleans)
        tally.runs += 1
        tally.faults += 1

    judge()
