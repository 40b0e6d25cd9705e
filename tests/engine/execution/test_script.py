"""Plans in plain scripts: signals and cancellation, in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM

import pytest

LONGEST = 30.0  # seconds that a script may take
LATER = 0.7  # seconds after which a signal is not part of the first one

SCRIPT = """
import os, signal, sys, threading, time
from pytest_plan import GenericStep, Plan, PlanCancelledError

def say(text):
    print(text, flush=True)

def reach(moment):
    if moment == MOMENT:
        say(moment)
        return True
    return False

made = set()

def exec(ctx):
    ctx.defer(made.discard, ctx.step)
    made.add(ctx.step)
    if ctx.step == "database" and reach("exec"):
        ctx.sleep(20)

def cleanup(ctx):
    if ctx.step == "database":
        reach("cleanup")
        say(f"reason: {ctx.reason}")
    ctx.sleep(PAUSE)

MOMENT, PAUSE = os.environ["MOMENT"], float(os.environ["PAUSE"])
plan = Plan()
for name in ("net", "database"):
    plan.add_step(GenericStep(exec=exec, cleanup=cleanup), name=name, cleanup_when="attempted")
"""
EXECUTE = "plan.execute(signals={signals})"
BODY = """
with plan.provisioned(signals={signals}):
    if reach("body"):
        time.sleep(20)
        say("the body went on")
"""
END = """
try:
{code}
except BaseException as error:
    say(f"raised: {{error!r}}"[:30])
say(f"left: {{sorted(made)}}")
say(f"restored: {{signal.getsignal(signal.SIGINT) is signal.default_int_handler}}")
"""
RECIPE = """
signal.signal(signal.SIGTERM, lambda *_: plan.cancel("SIGTERM"))
with plan.provisioned():
    reach("body")
    time.sleep(20)
    say("the body went on")
"""


class Script:
    """A script that runs in another process and stops at a moment."""

    def __init__(self, folder: Path, code: str, moment: str, *flags: str, pause: float = 0.3):
        file = folder / "script.py"
        file.write_text(SCRIPT + code)
        self._moment = moment
        self._process = subprocess.Popen(
            [sys.executable, *flags, str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "MOMENT": moment, "PAUSE": str(pause)},
        )

    def wait(self) -> None:
        """Wait until the script has reached its moment."""
        assert self._process.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1] != f"{self._moment}\n":
            lines.append(self._process.stdout.readline())
            assert lines[-1], lines

    def signal(self, number: int) -> None:
        """Send a signal to the script."""
        self._process.send_signal(number)

    def end(self) -> tuple[list[str], int]:
        """Wait until the script has ended; return the rest of its lines, and its exit status."""
        output, _ = self._process.communicate(timeout=LONGEST)
        return output.splitlines(), self._process.returncode


def script(folder: Path, code: str, moment: str, number: int, *, pause: float = 0.3) -> Script:
    """Start a script that ends with what it raised and left, and wait for the moment."""
    indented = "\n".join(f"    {line}" for line in code.strip().splitlines())
    more = f"({int(number)},)" if number != SIGINT else "()"
    started = Script(folder, END.format(code=indented.format(signals=more)), moment, pause=pause)
    started.wait()
    return started


def raised(number: int) -> str:
    """Return what a script says of the exception for this signal."""
    name = "KeyboardInterrupt()" if number == SIGINT else "PlanCancelledError("
    return f"raised: {name}"[:27]


numbers = pytest.mark.parametrize("number", [SIGINT, SIGTERM, SIGHUP], ids=lambda one: one.name)
moments = pytest.mark.parametrize(
    ("code", "moment"),
    [(EXECUTE, "exec"), (EXECUTE, "cleanup"), (BODY, "exec"), (BODY, "body"), (BODY, "cleanup")],
    ids=["execute-exec", "execute-cleanup", "exec", "body", "cleanup"],
)


@numbers
@moments
@pytest.mark.parametrize("gap", [None, 0.0, 0.0003, 0.2, LATER])
def test_signals_never_leave_steps_behind(
    tmp_path: Path, code: str, moment: str, number: int, gap: float | None
) -> None:
    """The first signal stops the plan; a second one, soon or later, does not cut cleanup short."""
    pause = 1.0 if gap == LATER else 0.3  # the script still cleans up when the second one comes
    running = script(tmp_path, code, moment, number, pause=pause)
    running.signal(number)
    if gap is not None:
        time.sleep(gap)
        running.signal(number)
    lines, status = running.end()
    assert "left: []" in lines, lines
    assert any(line.startswith(raised(number)) for line in lines), lines
    assert "the body went on" not in lines
    assert "Traceback" not in str(lines)
    if moment != "cleanup":
        assert "reason: cancelled" in lines
    assert status == 0


def test_the_handlers_are_restored(tmp_path: Path) -> None:
    """Without a signal, the default handlers are back after the run."""
    running = Script(tmp_path, END.format(code="    plan.execute()"), "", pause=0)
    lines, _ = running.end()
    assert lines[-2:] == ["left: []", "restored: True"]


def test_handlers_of_the_program_stay(tmp_path: Path) -> None:
    """The plan only replaces default handlers."""
    code = (
        "def mine(*_): say('mine')\n"
        "signal.signal(signal.SIGTERM, mine)\n"
        "with plan.provisioned(signals=[signal.SIGTERM]):\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "say(signal.getsignal(signal.SIGTERM) is mine)\n"
    )
    lines, status = Script(tmp_path, code, "", pause=0).end()
    assert (lines, status) == (["mine", "reason: success", "True"], 0)


def test_a_signal_during_cleanup_shows_what_is_left(tmp_path: Path) -> None:
    """A later signal prints the steps that are still being cleaned up."""
    running = script(tmp_path, BODY, "body", SIGINT, pause=1.0)
    running.signal(SIGINT)
    time.sleep(LATER)
    running.signal(SIGINT)
    lines, _ = running.end()
    assert "pytest-plan: still cleaning up: net, database" in lines


def test_a_body_that_goes_on_can_be_interrupted_again(tmp_path: Path) -> None:
    """A second SIGINT, half a second later, ends a body that caught the first one."""
    code = (
        "with plan.provisioned():\n"
        "    try:\n        reach('body'); time.sleep(20)\n"
        "    except KeyboardInterrupt:\n        say('caught'); time.sleep(20)\n"
    )
    running = script(tmp_path, code, "body", SIGINT)
    running.signal(SIGINT)
    time.sleep(LATER)
    running.signal(SIGINT)
    lines, _ = running.end()
    assert lines[0] == "caught"
    assert lines[-3].startswith("raised: KeyboardInterrupt")


def test_a_body_that_swallows_the_interrupt_does_not_hide_it(tmp_path: Path) -> None:
    """KeyboardInterrupt is raised at the end of the `with` statement."""
    code = (
        "with plan.provisioned():\n"
        "    try:\n        reach('body'); time.sleep(20)\n"
        "    except KeyboardInterrupt:\n        pass\n"
    )
    running = script(tmp_path, code, "body", SIGINT)
    running.signal(SIGINT)
    lines, _ = running.end()
    assert raised(SIGINT) in lines


def test_an_exception_that_replaces_the_interrupt_is_kept(tmp_path: Path) -> None:
    """The body may turn KeyboardInterrupt into `sys.exit`."""
    code = (
        "with plan.provisioned():\n"
        "    try:\n        reach('body'); time.sleep(20)\n"
        "    except KeyboardInterrupt:\n        sys.exit(7)\n"
    )
    running = Script(tmp_path, code, "body")
    running.wait()
    running.signal(SIGINT)
    assert running.end() == (["reason: cancelled"], 7)


@pytest.mark.parametrize("gap", [None, 0.0, 0.2])
def test_cancel_in_a_signal_handler_ends_the_body(tmp_path: Path, gap: float | None) -> None:
    """`cancel` raises PlanCancelledError in the body, once; cleanup runs to its end."""
    running = Script(tmp_path, END.format(code="\n".join(
        f"    {line}" for line in RECIPE.strip().splitlines())), "body")  # fmt: skip
    running.wait()
    running.signal(SIGTERM)
    if gap is not None:
        time.sleep(gap)
        running.signal(SIGTERM)
    lines, status = running.end()
    assert lines[:3] == ["reason: cancelled", "raised: PlanCancelledError('SI", "left: []"]
    assert status == 0


@pytest.mark.parametrize("moment", ["inner exec", "inner body", "inner cleanup"])
@pytest.mark.parametrize("how", ["SIGINT", "cancel"])
def test_a_plan_in_the_body_of_another_is_cleaned_up_as_well(
    tmp_path: Path, moment: str, how: str
) -> None:
    """A signal or the cancellation of the outer plan stops the inner plan first."""
    code = (
        "def inner_exec(ctx):\n"
        "    ctx.defer(made.discard, 'inner')\n"
        "    made.add('inner')\n"
        "    if reach('inner exec'): ctx.sleep(20)\n"
        "def inner_cleanup(ctx):\n"
        "    reach('inner cleanup'); ctx.sleep(0.5)\n"
        "inner = Plan().add_step(GenericStep(exec=inner_exec, cleanup=inner_cleanup))\n"
        + ("" if how == "SIGINT" else
           "signal.signal(signal.SIGTERM, lambda *_: plan.cancel('SIGTERM'))\n")
        + "with plan.provisioned():\n"
        "    with inner.provisioned():\n"
        "        if reach('inner body'): time.sleep(20)\n"
        "    say('the outer body went on')\n"
    )  # fmt: skip
    number = SIGINT if how == "SIGINT" else SIGTERM
    running = script(tmp_path, code, moment, SIGINT)
    running.signal(number)
    time.sleep(0.01)
    running.signal(number)
    lines, _ = running.end()
    assert "the outer body went on" not in lines
    assert lines[-2] == "left: []"
    assert lines[-3].startswith(raised(number)), lines


@pytest.mark.parametrize("flags", [("-O",), ("-I",), ("-X", "dev")], ids=lambda flags: flags[0])
def test_flags_of_python_change_nothing(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """SIGINT in the body ends the script as without them."""
    running = Script(tmp_path, BODY.format(signals="()"), "body", *flags)
    running.wait()
    running.signal(SIGINT)
    lines, status = running.end()
    assert lines[0] == "reason: cancelled"
    assert (lines[-1], status) == ("KeyboardInterrupt", -SIGINT)


@pytest.mark.parametrize(("given", "error"), [([0], ValueError), (["TERM"], TypeError)])
def test_an_invalid_signal_is_refused(given: list[object], error: type[Exception]) -> None:
    """Nothing runs, and the handlers are restored."""
    from pytest_plan import GenericStep, Plan

    before, ran = signal.getsignal(SIGINT), []
    plan = Plan().add_step(GenericStep(exec=lambda: ran.append(1)))
    with pytest.raises(error):
        plan.execute(signals=given)  # type: ignore[arg-type]
    assert (ran, signal.getsignal(SIGINT)) == ([], before)


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="the system cannot fork"
)
@pytest.mark.parametrize("number", [SIGTERM, SIGINT, SIGHUP])
@pytest.mark.parametrize("place", ["body", "inner body", "step"])
def test_a_forked_copy_has_the_default_handlers(
    tmp_path: Path, number: signal.Signals, place: str
) -> None:
    """A signal ends it as it ends any Python process, at once; the plan goes on."""
    ended = -number if number != SIGINT else 1  # multiprocessing's status of a KeyboardInterrupt
    fork = f"""
import multiprocessing
fork = multiprocessing.get_context("fork")
started = fork.Event()
def run():
    started.set()
    # A signal that arrives just before a sleep begins does not end it: Python acts at its end.
    for _ in range(600):
        time.sleep(0.1)
def check():
    process = fork.Process(target=run)
    process.start()
    started.wait(30)
    os.kill(process.pid, {int(number)})
    process.join(30)
    assert process.exitcode == {ended}, process.exitcode
    say("the copy has ended")
SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""
    code = {
        "body": "with plan.provisioned(signals=SIGNALS):\n    check()\n",
        "inner body": (
            "with plan.provisioned(signals=SIGNALS):\n"
            "    with Plan().provisioned(signals=SIGNALS):\n        check()\n"
        ),
        "step": (
            "plan.add_step(GenericStep(exec=check), name='forks')\nplan.execute(signals=SIGNALS)\n"
        ),
    }[place]
    running = Script(tmp_path, fork + code, "")
    said, status = running.end()
    assert (said.count("the copy has ended"), said.count("reason: success"), status) == (1, 1, 0), (
        said
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_copy_that_leaves_the_body_leaves_the_plan_alone(tmp_path: Path) -> None:
    """It neither cleans up nor waits nor hides its exception; a later exit changes nothing."""
    code = (
        "child = 1\n"
        "try:\n"
        "    with plan.provisioned():\n"
        "        if not (child := os.fork()):\n"
        "            raise ValueError\n"
        "        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "except ValueError:\n"
        "    say(f'in the copy: {not child}')\n"
        "    sys.exit(3)\n"
    )
    said, status = Script(tmp_path, code, "").end()
    assert said == ["in the copy: True", "3", "reason: success"]
    assert status == 0
