"""Steps that are restored from a journal and cleaned up by another process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_plan import Plan
from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.execution.restore import Restorer
from pytest_plan.engine.execution.run import revive
from pytest_plan.engine.journal.journal import Journal
from pytest_plan.engine.journal.reader import read
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.outcomes import CleanupOutcome
from pytest_plan.engine.model.results import CleanupResult
from pytest_plan.engine.plan import begin, definition_of
from tests.engine.support import journals
from tests.engine.support.journals import sealing

CALLS = Path("calls")


def note(*words: Any) -> None:
    """Record the deferred call in a file, because it may run in another process."""
    with CALLS.open("a") as file:
        file.write(" ".join(map(str, words)) + "\n")


def calls() -> list[str]:
    """Return the recorded calls."""
    return CALLS.read_text().splitlines() if CALLS.exists() else []


def drop(ctx: Context, value: Any) -> None:
    """Record the cleanup of a step."""
    note("drop", ctx.step, value)


class Named(GenericStep):
    """A step whose cleanup records its name and value."""

    def __init__(self, exec: Callable[..., Any] = lambda: None) -> None:
        super().__init__(exec=exec, cleanup=lambda ctx, value: note("clean", ctx.step, value))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test, which has the file of calls."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    return tmp_path


def killed(steps: Mapping[str, GenericStep], **options: Any) -> Path:
    """Return the journal of a killed run of these steps; no call is recorded yet."""
    file = journals.left(Path("run/j").absolute(), Path("j").absolute(), steps, **options)
    CALLS.unlink(missing_ok=True)
    return file


def recover(file: Path, steps: Mapping[str, GenericStep]) -> dict[str, CleanupResult]:
    """Clean up with the steps that are declared now; return the results of cleanup."""
    plan = Plan()
    for name, step in steps.items():
        plan.add_step(step, name=name)
    recorded = read(file)
    restorer = Restorer(recorded, recorded.steps, definition_of(plan).steps, journals.references())
    journal = Journal(file, journals.references())
    scratch = recorded.facts.get("scratch")
    folder = Path(scratch) if scratch is not None and Path(scratch).exists() else None
    options = definition_of(plan).options
    run = revive(restorer, options, journal, clock=SystemClock(), listeners=[], scratch=folder)
    run.clean_up(reason="recovery")
    return {name: record.cleanup for name, record in run.step_runs.items()}


def three() -> dict[str, GenericStep]:
    """Return three steps, each with a hook, a deferred call and a value."""

    def make(ctx: Context, state: Any) -> dict[str, str]:
        ctx.defer(note, "undo", ctx.step, {"a": (1,)})
        state[f"{ctx.step} made"] = True
        return {"name": ctx.step}

    return {name: Named(make) for name in ("net", "db", "web")}


def test_everything_is_cleaned_up_in_reverse_as_if_nothing_had_happened() -> None:
    """Hooks run with their values, then the deferred calls."""
    file = killed(three())
    results = recover(file, three())
    assert calls() == [
        line
        for name in ("web", "db", "net")
        for line in (f"clean {name} {{'name': '{name}'}}", f"undo {name} {{'a': (1,)}}")
    ]
    assert {result.outcome for result in results.values()} == {CleanupOutcome.SUCCEEDED}
    assert read(file).due() == []


def test_a_second_recovery_does_nothing() -> None:
    """There is nothing left to clean up."""
    file = killed(three())
    recover(file, three())
    before = calls()
    assert recover(file, three()) == {
        name: CleanupResult(CleanupOutcome.NONE) for name in ("net", "db", "web")
    }
    assert calls() == before


def test_only_what_was_not_undone_is_undone() -> None:
    """The first owner was killed during its cleanup."""
    file = killed(three())
    with sealing(file) as connection:
        connection.execute("UPDATE step SET hook_done = 1 WHERE name = 'web'")
        connection.execute("UPDATE undo SET done = 1 WHERE step = 'db'")
    recover(file, three())
    assert [line.rpartition(" {")[0] for line in calls()] == [
        "undo web", "clean db", "clean net", "undo net",
    ]  # fmt: skip


def test_the_last_owner_tries_last_what_the_others_did_not_get_past() -> None:
    """A hook or deferred call in which two owners were killed loses nothing before it."""

    def make(ctx: Context) -> None:
        for number in (1, 2, 3):
            ctx.defer(note, number)

    steps = {"db": GenericStep(exec=make), "web": Named(make)}
    file = killed(steps)
    journal = Journal(file, journals.references())
    for name in ("db", "web") * 2:
        journal.cleanup_begun(name)
    journal.close()
    recover(file, steps)
    assert calls() == ["3", "2", "1", "clean web None", "2", "1", "3"]


def test_the_reason_is_recovery() -> None:
    """A cleanup hook can tell by `ctx.reason` that a later process runs it."""
    steps = {"a": GenericStep(cleanup=lambda ctx: note(ctx.reason))}
    recover(killed(steps), steps)
    assert calls() == ["recovery"]


class TestChangedCode:
    """Recovery after the code has changed."""

    def test_a_step_that_is_gone_keeps_its_hook_for_later(self) -> None:
        """Its deferred calls run; its cleanup hook stays due, with a reason."""
        file = killed(three())
        now = three()
        del now["db"]
        results = recover(file, now)
        assert results["db"].outcome is CleanupOutcome.FAILED
        assert "step 'db' is no longer declared" in str(results["db"].errors[0])
        assert [step.name for step in read(file).due()] == ["db"]
        assert "undo db {'a': (1,)}" in calls()
        assert [line for line in calls() if line.startswith("clean")] == [
            "clean web {'name': 'web'}", "clean net {'name': 'net'}",
        ]  # fmt: skip

    def test_the_function_of_a_step_that_is_gone_is_found_by_its_name(self) -> None:
        """It is called with the recorded values, even if the step has no hook any more."""
        steps = {"db": GenericStep(exec=lambda: "url", cleanup=drop)}
        for now in ({}, {"db": GenericStep(exec=lambda: "url")}):
            file = killed(steps)
            recover(file, now)
            assert calls() == ["drop db url"]
            assert read(file).due() == []
            file.unlink()
            (file.parent / "run" / "j").unlink()

    def test_a_hook_that_takes_a_new_step_cannot_run(self) -> None:
        """It would get None; the reason names the step."""
        file = killed({"db": GenericStep(cleanup=lambda: None)})
        now = {"cache": GenericStep(), "db": GenericStep(cleanup=lambda cache: None)}
        results = recover(file, now)
        assert "it takes the value of 'cache', which was not provisioned" in str(
            results["db"].errors[0]
        )

    def test_it_is_finished_when_the_step_is_back(self) -> None:
        """The next process that declares the step runs its hook."""
        file = killed(three())
        recover(file, {})
        recover(file, three())
        assert read(file).due() == []
        assert len([line for line in calls() if line.startswith("undo")]) == 3

    def test_a_new_step_is_ignored(self) -> None:
        """It has nothing to clean up."""
        now = {**three(), "new": Named()}
        recover(killed(three()), now)
        assert not any("new" in line for line in calls())

    def test_a_step_without_its_hook_is_named(self) -> None:
        """The hook existed when the step was provisioned."""
        file = killed({"a": Named()})
        results = recover(file, {"a": GenericStep(exec=lambda: None)})
        assert "step 'a' no longer has one" in str(results["a"].errors[0])
        assert [step.name for step in read(file).due()] == ["a"]

    def test_the_order_is_that_of_the_run(self) -> None:
        """The present edges do not matter."""
        file = killed(three())
        recover(file, dict(reversed(three().items())))
        cleaned = [line.split()[1] for line in calls() if line.startswith("clean")]
        assert cleaned == ["web", "db", "net"]

    def test_a_function_that_is_gone_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The other deferred calls run."""
        file = killed(three())
        with sealing(file) as connection:
            connection.execute(
                "UPDATE undo SET data = replace(data, '\"note\"', '\"gone\"') WHERE step = 'db'"
            )
        results = recover(file, three())
        assert "no longer defines 'gone'" in str(results["db"].errors[0])
        assert len([line for line in calls() if line.startswith("undo")]) == 2


class TestLost:
    """What only the killed process could undo."""

    def test_a_call_that_could_not_be_written_is_named(self) -> None:
        """Everything else runs."""

        def make(ctx: Context) -> None:
            ctx.defer(note, "durable")
            ctx.defer(lambda: note("lambda"))

        steps = {"a": GenericStep(exec=make)}
        results = recover(killed(steps), steps)
        assert calls() == ["durable"]
        assert "only the process that ran the step can make this call" in str(
            results["a"].errors[0]
        )

    def test_a_hook_that_takes_what_is_lost_is_not_called(self) -> None:
        """With another value it might remove the wrong thing."""
        steps = {"a": Named(lambda: object()), "b": Named(lambda: 1)}
        results = recover(killed(steps), steps)
        assert calls() == ["clean b 1"]
        assert "was lost with its process" in str(results["a"].errors[0])

    def test_a_variable_of_a_dead_process_needs_nothing(self) -> None:
        """An environment variable ends with its process."""
        steps = {"a": GenericStep(exec=lambda ctx: ctx.setenv("RESTORE_TEST", "1"))}
        file = killed(steps)
        assert read(file).due() == []
        recover(file, steps)
        assert "RESTORE_TEST" not in os.environ


class TestTrees:
    """Process trees of a killed run."""

    @pytest.fixture
    def sleeper(self) -> Iterator[list[psutil.Process]]:
        """The process that was started; it is killed when the test ends."""
        found: list[psutil.Process] = []
        yield found
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()

    @pytest.fixture
    def journal(self, sleeper: list[psutil.Process]) -> Path:
        """The journal of a killed run that had started a process."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:

                def make(ctx: Context) -> None:
                    process = ctx.start(["sleep", "600"])
                    os.write(writer, f"{process.pid}\n".encode())

                run = journals.provisioned(Path("j").absolute(), {"a": GenericStep(exec=make)})
                journals.flush(run)
                os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader) as file:
            sleeper.append(psutil.Process(int(file.readline())))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        return Path("j").absolute()

    def test_they_are_ended(self, journal: Path, sleeper: list[psutil.Process]) -> None:
        """The process that cleans up ends them."""
        assert sleeper[0].is_running()
        recover(journal, {})
        assert not sleeper[0].is_running() or sleeper[0].status() == psutil.STATUS_ZOMBIE
        assert read(journal).due() == []

    def test_nothing_is_touched_after_a_reboot(
        self, journal: Path, sleeper: list[psutil.Process]
    ) -> None:
        """The recorded pids are invalid, and the undo counts as done."""
        with sealing(journal) as connection:
            connection.execute('UPDATE undo SET data = json_patch(data, \'{"boot": "old"}\')')
        recover(journal, {})
        assert sleeper[0].status() == psutil.STATUS_SLEEPING
        assert read(journal).due() == []

    def test_a_stranger_with_its_pid_is_not_touched(
        self, journal: Path, sleeper: list[psutil.Process]
    ) -> None:
        """A process with another start time and no cookie is left alone."""
        stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
        with sealing(journal) as connection:
            connection.execute(
                "UPDATE undo SET data = json_patch(data, ?)",
                (f'{{"pid": {stranger.pid}, "birth": "1"}}',),
            )
        recover(journal, {})
        assert stranger.poll() is None
        stranger.kill()
        stranger.wait()


def test_a_step_that_has_another_name_now() -> None:
    """It is found by its full name, and its cleanup gets the values that it needs."""

    def steps(*folders: str) -> Plan:
        plan = Plan()
        for folder in folders:
            where: dict[str, Any] = {"scope": ("root", folder), "folder": folder}
            undo = GenericStep(
                exec=lambda db: None, cleanup=lambda db, state: note("clean", db, state["db"])
            )
            definition = definition_of(plan)
            definition.declare(GenericStep(exec=lambda f=folder: f), "db", {}, "here", **where)
            definition.declare(undo, "web", {}, "here", **where)
        return plan

    def cleaned(before: Plan, after: Plan) -> list[str]:
        run = begin(before, journal=Journal(Path("run/j"), journals.references()))
        run.provision()
        journals.flush(run)
        journals.copy_journal(Path("run/j"), Path("j"))
        run.clean_up()
        CALLS.unlink()
        recorded = read(Path("j"))
        declared = definition_of(after).steps
        restorer = Restorer(recorded, recorded.steps, declared, journals.references())
        journal = Journal(Path("j"), journals.references())
        options = definition_of(after).options
        revive(restorer, options, journal, clock=SystemClock(), listeners=[]).clean_up()
        for file in (*Path("run").iterdir(), *Path().glob("j*")):
            file.unlink()
        return sorted(calls())

    assert cleaned(steps("b"), steps("a", "b")) == ["clean b b"]
    assert cleaned(steps("a", "b"), steps("a", "b")) == ["clean a a", "clean b b"]
    assert cleaned(steps("a", "b"), steps("b")) == ["clean b b"]


class TestState:
    """The State of a run that continues with some of the recorded steps."""

    def test_values_of_steps_that_are_made_again_are_gone(self) -> None:
        """So are the keys that they have set; a value that they have changed is as before."""

        def one(state: Any) -> str:
            state["shared"], state["of one"] = ["one"], 1
            return "value"

        def two(one: str, state: Any) -> None:
            state["shared"], state["of two"] = [*state["shared"], "two"], 2

        steps = {"one": GenericStep(exec=one), "two": GenericStep(exec=two)}
        recorded = read(killed(steps))
        for restored, expected in (
            (["one", "two"], {"one": "value", "shared": ["one", "two"], "of one": 1, "of two": 2}),
            (["one"], {"one": "value", "shared": ["one"], "of one": 1}),
            (["two"], {"shared": ["one", "two"], "of two": 2}),
            ([], {}),
        ):
            plan = Plan()
            for name, step in steps.items():
                plan.add_step(step, name=name)
            known = definition_of(plan).steps
            restorer = Restorer(recorded, restored, known, journals.references())
            run = begin(plan)
            run.restore(restorer, dict.fromkeys(restored, "unchanged"))
            assert run.facts.store.snapshot() == expected
            run.detach()

    def test_a_value_that_a_test_has_written_belongs_to_the_step(self) -> None:
        """The key is gone with the step, and stays with it."""
        file = Path("run/j").absolute()
        run = journals.provisioned(file, {"one": GenericStep(exec=set_key)})
        run.facts.store.write("key", "of a test", None, None)
        run.facts.store.write("free", 1, None, None)
        journals.flush(run)
        layers = read(file).layers
        assert [(one.writer, one.text) for one in layers["key"]] == [("one", '"of a test"')]
        assert [(one.writer, one.text) for one in layers["free"]] == [("", "1")]
        journal = run.journal
        assert isinstance(journal, Journal)
        journal.forget(["one"])
        journal.flush()
        assert read(file).state == {"free": "1"}
        run.clean_up()


def set_key(state: Any) -> None:
    """Set a key of the State."""
    state["key"] = "of the step"
