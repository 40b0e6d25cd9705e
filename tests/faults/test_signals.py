"""Rows 20 to 24, 30 and 82: SIGINT, SIGTERM and SIGHUP at every moment, up to three times."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from signal import SIGHUP, SIGINT, SIGTERM

import pytest

from tests.faults.harness.scenario import (
    BACKWARD,
    MOMENTS,
    SLACK,
    STEPS,
    TESTING,
    Run,
    Stage,
    Story,
)

STATUS = {SIGINT: 2, SIGTERM: 143, SIGHUP: 129}
EAGER = ("-o", "plan_eager=true")
FEW = ["net.exec", "web.exec", *TESTING, "web.cleanup", "net.cleanup"]
QUICK = 1.0 * SLACK  # seconds
STOPPED = 5.0  # seconds that a stopped process stays stopped
numbers = pytest.mark.parametrize("number", STATUS, ids=lambda number: signal.Signals(number).name)
modes = pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["solo", "two workers"])


def after(seconds: float) -> Callable[[], bool]:
    """Return a check for whether these seconds have passed."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


def one_signal(run: Run, *args: str, moment: str, number: int, group: bool = False) -> Story:
    """Send a signal at a moment, and check that the run stops and cleanup is not cut short."""
    run.start(*args, faults={moment: "hold"})
    yield run.reached(moment)
    run.signal(number, group=group)
    if moment in BACKWARD:
        yield run.says("still cleaning up")
    if moment in (*BACKWARD, "finish"):
        run.release()
    yield run.ended
    # A worker that gets the signal during its own exit is cut short by pytest: do not check it.
    run.judge(STATUS[signal.Signals(number)], torn_down=True, owner_only=group)
    if moment not in BACKWARD and "-n" not in args:
        run.expect(moment == "finish" or not run.notes("test"), "tests went on")


def play(stage: Stage, moments: list[str], *args: str, number: int, group: bool = False) -> None:
    """Send a signal at each of the moments, in one run each."""
    for moment in moments:
        more = (*args, *EAGER) if moment in ("start", "collecting") else args
        stage.add(moment, one_signal, *more, moment=moment, number=number, group=group)
    stage.play()


@numbers
def test_g2_cleanup_runs_after_a_signal_at_any_moment(stage: Stage, number: int) -> None:
    """Rows 20, 23, 24: solo, the run stops, cleans up, and exits with the status of the signal."""
    play(stage, ["start", "collecting", *MOMENTS, "finish"], number=number)


@numbers
def test_g12_cleanup_runs_after_a_signal_to_the_controller_alone(stage: Stage, number: int) -> None:
    """The controller stops its two workers, and cleanup runs once."""
    moments = ["collecting", *MOMENTS] if number == SIGINT else FEW
    play(stage, moments, "-n", "2", number=number)


@numbers
def test_g12_cleanup_runs_after_a_signal_to_the_whole_group(stage: Stage, number: int) -> None:
    """Cleanup runs once when the workers get the signal as well, as from a terminal."""
    moments = ["collecting", *FEW] if number == SIGTERM else ["web.exec", "test.call", "db.cleanup"]
    play(stage, moments, "-n", "2", number=number, group=True)


@numbers
@modes
def test_g5_the_second_signal_does_not_cut_cleanup_short(
    stage: Stage, number: int, args: tuple[str, ...]
) -> None:
    """Row 21: the second signal only shows what is still being cleaned up."""

    def story(run: Run) -> Story:
        run.start(*args, faults={"test.call": "hold", "web.cleanup": "hold"})
        yield run.reached("test.call")
        run.signal(number)
        yield run.reached("web.cleanup")
        yield run.is_later
        run.signal(number)
        yield run.says("still cleaning up: net, db, web")
        run.release()
        yield run.ended
        run.judge(STATUS[signal.Signals(number)])

    stage.add("twice", story)
    stage.play()


@numbers
@modes
def test_g5_the_third_signal_skips_the_rest_and_lists_it(
    stage: Stage, number: int, args: tuple[str, ...]
) -> None:
    """Row 22: the third signal ends the process at once and lists what was not undone."""

    def story(run: Run, moment: str) -> Story:
        run.start(*args, faults={"test.call": "hold", moment: "hold"})
        yield run.reached("test.call")
        run.signal(number)
        yield run.reached(moment)
        yield run.is_later
        run.signal(number)
        yield run.says("still cleaning up")
        run.signal(number)
        yield run.ended
        took = run.time_of("leaving", str(run.pid)) - run.moved
        run.expect(took < QUICK, f"the third signal took {took:.1f} s to end the process")
        left = STEPS[: 3 - BACKWARD.index(moment)]
        run.judge(STATUS[signal.Signals(number)], left=left, stuck=[moment.partition(".")[0]])
        for step in left:
            named = [line for line in run.output().splitlines() if step in line]
            run.expect(any("abandoned" in line for line in named), f"{step} is not named")

    for moment in BACKWARD if number == SIGINT else BACKWARD[1:2]:
        stage.add(moment, story, moment=moment)
    stage.play()


@numbers
@modes
def test_g5_a_signal_that_is_sent_twice_counts_once(
    stage: Stage, number: int, args: tuple[str, ...]
) -> None:
    """Row 82: a terminal and a wrapper may both send it, up to half a second apart."""

    def story(run: Run, moment: str, gap: float, group: bool) -> Story:
        run.start(*args, faults={moment: "hold"})
        yield run.reached(moment)
        run.signal(number, group=group)
        yield after(gap)
        if not run.ended():
            run.signal(number, group=group)
        if moment in BACKWARD:
            yield run.says("still cleaning up")
            yield run.is_later
            run.release()
        yield run.ended
        run.judge(STATUS[signal.Signals(number)])
        run.expect("Traceback" not in run.output(), "there is a traceback")

    for moment in ("db.exec", "test.call", "db.cleanup"):
        for gap in (0.0, 0.02, 0.2):
            stage.add(f"{moment} {gap}", story, moment=moment, gap=gap, group=False)
    stage.add("group", story, moment="test.call", gap=0.02, group=True)
    stage.play()


@modes
def test_g5_the_second_interrupt_during_cleanup_leaves_the_rest(
    stage: Stage, args: tuple[str, ...]
) -> None:
    """Pressing Ctrl-C again after half a second ends the run."""

    def story(run: Run) -> Story:
        run.start(*args, faults={"db.cleanup": "hold"})
        yield run.reached("db.cleanup")
        run.signal(SIGINT)
        yield run.says("still cleaning up")
        yield run.is_later
        run.signal(SIGINT)
        yield run.ended
        run.judge(2, left=["db", "net"], stuck=["db"])
        run.expect("abandoned" in run.output(), "what is left is not named")

    stage.add("twice", story)
    stage.play()


@modes
def test_g17_the_first_of_different_signals_gives_the_exit_status(
    stage: Stage, args: tuple[str, ...]
) -> None:
    """SIGTERM some seconds after SIGINT, as some CI systems send it, does not cut cleanup short."""

    def story(run: Run) -> Story:
        run.start(*args, faults={"db.exec": "hold", "db.cleanup": "hold"})
        yield run.reached("db.exec")
        run.signal(SIGINT)
        yield run.reached("db.cleanup")
        yield run.is_later
        run.signal(SIGTERM)
        yield run.says("still cleaning up")
        run.release()
        yield run.ended
        run.judge(2)

    stage.add("mixed", story)
    stage.play()


def test_g17_a_green_run_keeps_the_status_of_a_signal_in_its_cleanup(stage: Stage) -> None:
    """All tests passed, but the exit status shows that the run was asked to stop."""

    def story(run: Run) -> Story:
        run.start(faults={"db.cleanup": "hold"})
        yield run.reached("db.cleanup")
        run.signal(SIGTERM)
        yield run.says("still cleaning up")
        run.release()
        yield run.ended
        run.judge(143)
        run.expect("5 passed" in run.output(), "the summary is missing")

    stage.add("green", story)
    stage.play()


def test_g17_a_second_signal_at_the_end_does_not_cut_the_summary(stage: Stage) -> None:
    """Two signals while pytest finishes its session are recorded, and the summary is printed."""

    def story(run: Run, number: int) -> Story:
        run.start(faults={"finish": "hold"})
        yield run.reached("finish")
        run.signal(number)
        yield run.is_later
        run.signal(number)
        run.release()
        yield run.ended
        run.judge(STATUS[signal.Signals(number)])
        run.expect("5 passed" in run.output(), "the summary is missing")

    for number in STATUS:
        stage.add(str(number), story, number)
    stage.play()


@modes
def test_g17_a_signal_while_the_environment_is_created_leaves_nothing(
    stage: Stage, args: tuple[str, ...]
) -> None:
    """The environment is removed, no thread is left, and no step begins."""

    def story(run: Run, number: int) -> Story:
        conftest = (run.project / "conftest.py").read_text()
        hook = "\ndef pytest_plan_make_listener():\n    at('listener')\n"
        run.write("conftest.py", conftest + hook)
        run.start(*args, faults={"listener": "hold"})
        yield run.reached("listener")
        run.signal(number)
        run.release()
        yield run.ended
        run.judge(STATUS[signal.Signals(number)])
        run.expect(not run.notes("begin"), "a step began")
        left = list((run.project / ".pytest_plan" / "environments").glob("*"))
        run.expect(not left, f"left: {left}")

    for number in STATUS:
        stage.add(str(number), story, number)
    stage.play()


@modes
def test_g17_a_signal_that_comes_while_pytest_leaves_raises_nothing(
    stage: Stage, args: tuple[str, ...]
) -> None:
    """A signal while pytest handles `pytest.exit` of a step gives the status, and no traceback."""

    def story(run: Run, number: int, signals: int) -> Story:
        conftest = (run.project / "conftest.py").read_text()
        in_owner = "if 'PYTEST_XDIST_WORKER' not in os.environ"  # workers have ended by then
        hook = f"\nimport os\ndef pytest_keyboard_interrupt():\n    {in_owner}: at('interrupt')\n"
        run.write("conftest.py", conftest + hook)
        run.start(*args, faults={"web.exec": "exit", "interrupt": "hold"})
        yield run.reached("interrupt")
        run.signal(number)
        for _ in range(signals - 1):
            yield run.is_later
            run.signal(number)
        if signals < 3:  # the third cuts the hook short, which would hold for minutes
            run.release()
        yield run.ended
        run.judge(STATUS[signal.Signals(number)])
        run.expect("Traceback" not in run.output(), "there is a traceback")

    for number in STATUS:
        for signals in (1, 2, 3):
            stage.add(f"{number}, {signals} times", story, number, signals)
    stage.play()


@pytest.mark.parametrize("number", [SIGINT, SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_g17_workers_are_stopped_at_once(stage: Stage, number: int) -> None:
    """Cleanup begins within a second of a signal to the controller, even while a test sleeps."""

    def story(run: Run, background: bool) -> Story:
        def ignore() -> None:
            signal.signal(SIGINT, signal.SIG_IGN)

        run.start(
            "-n", "2", faults={"test.call": "sleep"}, preexec_fn=ignore if background else None
        )
        yield run.reached("test.call")
        run.signal(number)
        yield run.ended
        took = run.time_of("cleanup") - run.moved
        run.expect(took < QUICK, f"cleanup began after {took:.1f} s")
        run.judge(STATUS[signal.Signals(number)], torn_down=True)

    stage.add("foreground", story, background=False)
    if number == SIGTERM:  # a shell starts background jobs with SIGINT ignored
        stage.add("background", story, background=True)
    stage.play()


@modes
def test_g17_a_handler_of_the_user_is_respected(stage: Stage, args: tuple[str, ...]) -> None:
    """The user's own SIGTERM handler stays installed and decides whether the run goes on."""
    handler = (
        "import signal\nfrom tests.faults.harness.fakes import note\n"
        "signal.signal(signal.SIGTERM, lambda *_: note('mine'))\n"
    )

    def story(run: Run, moment: str) -> Story:
        conftest = (run.project / "conftest.py").read_text()
        run.write("conftest.py", handler + conftest)
        run.start(*args, faults={moment: "hold"})
        yield run.reached(moment)
        run.signal(SIGTERM)
        yield lambda: run.notes("mine") or run.ended()
        run.release()
        yield run.ended
        run.judge(0)

    for moment in ("db.exec", "test.call", "db.cleanup"):
        stage.add(moment, story, moment=moment)
    stage.play()


@modes
def test_g17_without_plan_signals_nothing_is_handled(stage: Stage, args: tuple[str, ...]) -> None:
    """With `plan_signals = false` SIGTERM has its default effect; Ctrl-C still cleans up."""

    def story(run: Run, moment: str, number: int, status: int) -> Story:
        run.start("-o", "plan_signals=false", *args, faults={moment: "hold"})
        yield run.reached(moment)
        run.signal(number, group=True)
        yield run.ended
        if status > 0:
            run.judge(status)
        else:
            run.expect(run.status == status, f"exit status {run.status}, not {status}")
            run.expect(not run.notes("cleanup"), "it was handled")

    for moment in ("db.exec", "test.call"):
        for number, status in ((SIGINT, 2), (SIGTERM, -SIGTERM)):
            name = f"{moment} {number}"
            stage.add(name, story, moment=moment, number=number, status=status)
    stage.play()


@modes
@pytest.mark.parametrize("number", [None, SIGHUP], ids=["alone", "SIGHUP"])
def test_g2_cleanup_runs_when_the_output_is_gone(
    stage: Stage, args: tuple[str, ...], number: int | None
) -> None:
    """Row 24: cleanup runs after the reader of the output has gone, as with `pytest | head`."""

    def story(run: Run, moment: str) -> Story:
        reader, writer = os.pipe()
        run.start(*args, faults={moment: "hold"}, stdout=writer, stderr=writer)
        os.close(writer)
        yield run.reached(moment)
        os.close(reader)
        if number is not None:
            run.signal(number)
        run.release()
        yield run.ended
        # pytest itself exits with status 1 if it cannot write its summary.
        run.judge(None if number is None or run.status == 1 else 129)
        run.expect(run.status != 0 or number is None, "a signal, and exit status 0")

    for moment in ("db.exec", "test.call"):
        stage.add(moment, story, moment=moment)
    stage.play()


def test_g2_a_stopped_process_goes_on(stage: Stage) -> None:
    """Row 30: a run that was stopped for 5 s continues, and nothing is cleaned up early."""

    def story(run: Run, *args: str, moment: str) -> Story:
        run.start(*args, faults={moment: "hold"})
        yield run.reached(moment)
        run.signal(signal.SIGSTOP)
        yield after(STOPPED)
        run.expect(not run.notes("cleanup"), "it was cleaned up")
        run.release()
        run.signal(signal.SIGCONT)
        yield run.ended
        run.judge(0)

    for moment in ("db.exec", "test.call"):
        stage.add(moment, story, moment=moment)
        stage.add(f"{moment}, two workers", story, "-n", "2", moment=moment)
    stage.play()
