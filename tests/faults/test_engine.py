"""Rows 9 to 15, 53, 54, 65, 67 and 83 of the fault matrix: the engine alone, without pytest."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_plan import GenericStep, Plan, PlanCancelledError, PlanDefinitionError, StepError
from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.events import AttemptFailed
from pytest_plan.engine.plan import listen
from pytest_plan.engine.processes.identity import identify
from pytest_plan.engine.processes.process import spawn
from tests.engine.support.fake_clock import FakeClock
from tests.engine.support.steps import Background
from tests.faults.harness import checker, fakes
from tests.faults.harness.scenario import NEEDS, SLACK, STEPS, Run, Stage, Story, Tally

PATIENCE = 20.0  # real seconds


class Lab:
    """Runs plans of fake steps in this process and judges their history."""

    def __init__(self, folder: Path, tally: Tally, patch: pytest.MonkeyPatch) -> None:
        self._path = folder / "history"
        self._tally = tally
        self._patch = patch
        patch.setenv(fakes.HISTORY, str(self._path))
        patch.setenv(fakes.RELEASE, str(folder / "release"))

    @property
    def history(self) -> list[checker.Line]:
        """The events that were recorded so far."""
        return checker.read(self._path)

    def notes(self, what: str) -> list[str]:
        """Return the words of all events `what` in the history."""
        return [" ".join(line.words) for line in self.history if line.what == what]

    def plan(
        self, faults: Mapping[str, str], options: Mapping[str, Any] | None = None, **more: Any
    ) -> Plan:
        """Return a plan of three fake steps and clear the history."""
        self._tally.runs += 1
        self._tally.faults += len(faults)
        self._path.unlink(missing_ok=True)
        self._patch.setenv(fakes.FAULTS, json.dumps(dict(faults)))
        plan = Plan(**more)
        for name in STEPS:
            plan.add_step(fakes.Fake(), name=name, **(options or {}))
        return plan

    def wait(self, moment: str) -> None:
        """Wait until a moment has come."""
        deadline = time.monotonic() + PATIENCE
        while moment not in self.notes("at"):
            assert time.monotonic() < deadline, f"{moment} has not come"
            time.sleep(0.002)

    def judge(self, needs: checker.Needs = NEEDS) -> None:
        """Fail if the history contains a violation."""
        found = list(checker.violations(self.history, needs))
        self._tally.violations += len(found)
        assert found == [], "\n".join(map(str, self.history))


@pytest.fixture
def lab(tmp_path: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab with an empty history."""
    return Lab(tmp_path, tally, monkeypatch)


@pytest.mark.parametrize("count", range(1, 12))
def test_g2_a_listener_that_raises_at_any_event_changes_nothing(lab: Lab, count: int) -> None:
    """Row 9: the run continues and reports the listener's error once."""
    plan, heard = lab.plan({}), itertools.count(1)

    def hear(event: object) -> None:
        if next(heard) == count:
            raise OSError("no space left")

    listen(plan, hear)
    result = plan.execute()
    lab.judge()
    assert len(result.listener_errors) == (count < next(heard))
    assert len(lab.notes("done")) == 3


def test_g15_a_step_that_fails_twice_then_passes_is_cleaned_up_once(lab: Lab) -> None:
    """Row 10: each of three attempts is undone before the next; the step is cleaned up once."""
    for hook in fakes.HOOKS:
        plan = lab.plan({f"db.{hook}": "once"}, {"retries": 2, "retry_wait": 0})
        result = plan.execute()
        lab.judge()
        assert len(result.steps["db"].attempts) == 3
        assert lab.notes("undo").count("db 1") == lab.notes("undo").count("db 3") == 1


def test_g15_a_step_that_passes_is_never_tried_again(lab: Lab) -> None:
    """Row 11: a step that passes has one attempt, however many are allowed."""
    result = lab.plan({}, {"retries": 5, "retry_wait": 0}).execute()
    lab.judge()
    assert [len(step.attempts) for step in result.steps.values()] == [1, 1, 1]


def test_g15_when_retries_are_used_up_every_error_is_kept(lab: Lab) -> None:
    """Row 12: the step's error is that of its last attempt, and the cleanup runs once."""
    for hook in fakes.HOOKS:
        plan = lab.plan({f"db.{hook}": "error"}, {"retries": 2, "retry_wait": 0})
        with pytest.raises(StepError) as caught:
            plan.execute()
        lab.judge()
        attempts = plan.results["db"].attempts
        assert [str(attempt.error) for attempt in attempts] == [f"db.{hook}"] * 3
        assert caught.value.hook == hook


def test_g18_a_cancel_ends_the_wait_between_attempts(lab: Lab) -> None:
    """Row 13: the run stops at once, not when the wait would have ended."""
    plan = lab.plan({"db.exec": "error"}, {"retries": 1, "retry_wait": "10m"})
    waiting = threading.Event()

    def hear(event: object) -> None:
        if isinstance(event, AttemptFailed):
            waiting.set()

    listen(plan, hear)
    background = Background(plan.execute)
    assert waiting.wait(PATIENCE)
    began = time.monotonic()
    plan.cancel()
    with pytest.raises(PlanCancelledError):
        background.result()
    assert min(line.time for line in lab.history if line.what == "cleanup") - began < 0.1 * SLACK
    lab.judge()


def test_g2_a_cancel_before_the_first_step_runs_nothing(lab: Lab) -> None:
    """Row 14: no step begins, and there is nothing to clean up."""
    plan = lab.plan({})
    plan.cancel()
    with pytest.raises(PlanCancelledError):
        plan.execute()
    assert lab.history == []


@pytest.mark.parametrize("moment", [f"{step}.{hook}" for step in STEPS for hook in fakes.HOOKS])
def test_g2_a_cancel_at_any_moment_stops_and_cleans_up(lab: Lab, moment: str) -> None:
    """Row 15: no further step begins, and every step that had begun is undone."""
    plan = lab.plan({moment: "hold"})
    background = Background(plan.execute)
    lab.wait(moment)
    plan.cancel("enough")
    with pytest.raises(PlanCancelledError, match="enough"):
        background.result()
    lab.judge()
    step = moment.partition(".")[0]
    begun = [words.split()[0] for words in lab.notes("begin")]
    assert begun == list(STEPS[: STEPS.index(step) + 1])
    assert step not in lab.notes("done")


@pytest.mark.parametrize("moment", ["db.exec", "db.cleanup", "net.cleanup"])
def test_g5_many_cancels_are_one_and_do_not_cut_cleanup_short(lab: Lab, moment: str) -> None:
    """Row 83: `cancel` may be called any number of times, on any thread, and during cleanup."""
    plan = lab.plan({"db.exec": "hold", moment: "hold"})
    run = Background(plan.execute)
    lab.wait("db.exec")
    plan.cancel("first")
    plan.cancel("second")
    lab.wait(moment)
    cancels = [Background(lambda: plan.cancel("later")) for _ in range(8)]
    for cancel in cancels:
        cancel.result()
    Path(os.environ[fakes.RELEASE]).touch()
    with pytest.raises(PlanCancelledError, match="first"):
        run.result()
    lab.judge()
    assert sorted(lab.notes("cleanup")) == sorted({*lab.notes("begin")})


def test_g4_a_cancel_while_four_run_cleans_up_all_of_them(lab: Lab, tally: Tally) -> None:
    """Row 15: steps that run at the same time are all stopped and all undone."""
    names = [f"s{number}" for number in range(4)]
    plan = lab.plan({f"{name}.exec": "hold" for name in names})
    for name in names:
        plan.add_step(fakes.Fake(), name=name, needs=["web"])
    background = Background(plan.execute)
    for name in names:
        lab.wait(f"{name}.exec")
    plan.cancel()
    with pytest.raises(PlanCancelledError):
        background.result()
    lab.judge({**NEEDS, **{name: ["web"] for name in names}})


def test_g18_the_wall_clock_changes_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 54: durations stay right although the wall clock jumps by an hour at every reading."""
    jumps = itertools.cycle((3600.0, -3600.0))
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + next(jumps))
    plan = lab.plan({}, {"timeout": "1m", "cleanup_timeout": "1m"}, limit="5m")
    result = plan.execute()
    lab.judge()
    assert 0 <= result.seconds < 60


def test_g2_a_plan_inside_a_step_has_an_environment_of_its_own(lab: Lab) -> None:
    """Row 67: there is no deadlock, and each plan is cleaned up when it ends."""
    inner, run_ids = Plan(jobs=1).add_step(fakes.Fake(), name="inner"), list[str]()

    def nested() -> None:
        run_ids.append(inner.execute().run_id)

    plan = lab.plan({}, jobs=1).add_step(GenericStep(exec=nested), name="outer")
    result = plan.execute()
    lab.judge()
    assert inner.state is not plan.state
    assert lab.notes("cleanup") == ["inner", "web", "db", "net"]
    assert result.run_id not in run_ids
    assert len(run_ids) == 1


def test_g2_a_plan_runs_once_even_while_it_runs(lab: Lab) -> None:
    """Row 67: executing a plan again, even from its own step, is an error, not a deadlock."""
    said: list[str] = []

    def again() -> None:
        try:
            plan.execute()
        except PlanDefinitionError as error:
            said.append(str(error))

    plan = lab.plan({}).add_step(GenericStep(exec=again), name="again")
    plan.execute()
    lab.judge()
    assert said == ["this plan has been executed already: a plan runs once"]


def test_g11_a_member_that_dies_while_the_tree_is_listed_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """Row 53: a member that has died is not signalled, and no error is raised."""
    tally.faults += 1
    root = spawn(["sleep", "600"], output=-3, errors=-3)
    other = spawn(["true"], output=-3, errors=-3)
    dead = identify(other.pid)
    other.wait()
    members = root.members
    monkeypatch.setattr(root, "members", lambda: [dead, *members()])
    began = time.monotonic()
    root.signal_tree(signal.SIGSTOP)
    monkeypatch.setattr(root, "members", members)
    root.signal_tree(signal.SIGCONT)
    root.end(SystemClock(), signal.SIGTERM, 5.0)
    assert time.monotonic() - began < 3.0 * SLACK
    assert root.poll() is not None


def test_g11_a_process_with_a_reused_pid_is_not_signalled(
    monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """A pid in the tree that now belongs to a process with another creation time gets no signal."""
    tally.faults += 1
    root = spawn(["sleep", "600"], output=-3, errors=-3)
    stranger = spawn(["sleep", "600"], output=-3, errors=-3)
    member = identify(stranger.pid)._replace(birth="1")
    monkeypatch.setattr(root, "members", lambda: [member])
    root.signal_tree(signal.SIGKILL)
    assert stranger.poll() is None
    monkeypatch.undo()
    for process in (root, stranger):
        process.end(SystemClock(), signal.SIGTERM, 5.0)


def test_g2_an_interpreter_that_ends_in_the_middle_of_a_plan_does_not_hang(
    stage: Stage,
) -> None:
    """Row 65: `provisioned()` that is never left is cleaned up within 5 s when Python exits."""
    script = """\
from tests.faults.harness.fakes import Fake, note, watch_exit
from pytest_plan import Plan
plan = Plan()
for name in ("net", "db", "web"):
    plan.add_step(Fake(), name=name)
body = plan.provisioned()
body.__enter__()
note("inside")
"""

    def story(run: Run) -> Story:
        run.write("script.py", script)
        run.start(argv=["script.py"])
        yield lambda: run.notes("inside") or run.ended()
        began = time.monotonic()
        yield run.ended
        run.expect(time.monotonic() - began < 5.0 * SLACK, "it hung")
        run.judge(0, exits=False)

    stage.add("script", story)
    stage.play()


def test_g18_an_abandoned_step_can_no_longer_change_anything(lab: Lab, clock: FakeClock) -> None:
    """An abandoned step cannot write to the State, and is cleaned up although it still runs."""
    reached, go = threading.Event(), threading.Event()
    said: list[str] = []
    done = threading.Event()

    def stuck(ctx: Any, state: Any) -> None:
        reached.set()
        with contextlib.suppress(BaseException):  # the exception arrives here, much too late
            clock.hang(lambda: go.wait(PATIENCE))
        for change in (lambda: state.update(late=1), lambda: ctx.defer(print), ctx.check):
            try:
                change()
            except BaseException as error:
                said.append(type(error).__name__)
        done.set()

    undone: list[str] = []
    plan = Plan(clock=clock)
    step = GenericStep(exec=stuck, cleanup=lambda ctx: undone.append(ctx.reason or ""))
    plan.add_step(step, name="stuck", timeout=1, cleanup_when="attempted")
    with pytest.raises(StepError):
        plan.execute()
    assert undone == ["failure"]
    assert "go.wait" in (plan.results["stuck"].stack or "")
    go.set()
    assert done.wait(PATIENCE)
    assert said == ["StateError"] * 3
    assert "late" not in plan.state


def test_g10_two_runs_at_the_same_time_share_nothing(stage: Stage, tmp_path: Path) -> None:
    """Runs of the same project at the same time share no folder, id or process."""

    def story(run: Run) -> Story:
        run.start("-n", "1", faults={"test.call": "hold"})
        yield run.reached("test.call")
        (tmp_path / f"{run.pid}").touch()
        yield lambda: len(os.listdir(tmp_path)) == 3 or run.ended()
        run.release()
        yield run.ended
        run.judge(0)

    for number in range(3):
        stage.add(str(number), story)
    stage.play()
