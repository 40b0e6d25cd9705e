"""The project of a run of the soak: steps whose programs end as they mean to, or are killed.

`FATES` has the body of each kind of step, and what its test does. A step of a quiet kind must not
be lost; a step of a deadly kind must be.
"""

from __future__ import annotations

from typing import NamedTuple


class Fate(NamedTuple):
    """What happens to the program of a step.

    Attributes:
        step: the body of the step's function, which stores the pid of its program in `pid`.
        test: what the step's test does with `pid`.
        is_deadly: whether the step must be lost.
        options: the options of the step.
    """

    step: str
    test: str = "pause()"
    is_deadly: bool = False
    options: str = ""


_SLEEP = "process = ctx.start(['sleep', '600'])\npid = process.pid"
FATES = {
    "stays": Fate(_SLEEP),
    "ignores SIGTERM": Fate(
        "process = ctx.start(['sh', '-c', 'trap \"\" TERM; sleep 600'], stop_grace=0.1)\n"
        "pid = process.pid"
    ),
    "is ended by the tail": Fate(f"{_SLEEP}\nyield\nos.kill(pid, signal.SIGKILL)"),
    "is ended by a deferred call": Fate(f"{_SLEEP}\nctx.defer(os.kill, pid, signal.SIGKILL)"),
    "is not watched": Fate(
        "pid = ctx.start(['sleep', '600'], watch=False).pid", "pause(); kill(pid)"
    ),
    "has ended": Fate("process = ctx.start(['true'])\npid = process.pid\nprocess.wait()"),
    "has failed, and was awaited": Fate(
        "process = ctx.start(['false'])\npid = process.pid\nprocess.wait()"
    ),
    "is paused": Fate(
        _SLEEP, "os.kill(pid, signal.SIGSTOP); pause(); os.kill(pid, signal.SIGCONT)"
    ),
    "stays paused": Fate(_SLEEP, "os.kill(pid, signal.SIGSTOP)"),
    "becomes another program": Fate(
        "pid = ctx.start(['sh', '-c', 'sleep 0.1; exec sleep 600']).pid"
    ),
    "leaves a daemon": Fate("pid = ctx.start(['sh', '-c', 'setsid sleep 600 & sleep 0.1']).pid"),
    "starts again after a failed attempt": Fate(
        f"{_SLEEP}\nassert ctx.attempt == 2", options="retries=1, retry_wait=0"
    ),
    "is checked": Fate(f"{_SLEEP}\nctx.watch(lambda: True, every='20ms')"),
    "loses a child": Fate(
        "pid = ctx.start(['sh', '-c', 'while :; do sleep 0.05; done']).pid"
    ),
    "sees its test fork": Fate(_SLEEP, "fork()"),
    "is killed": Fate(_SLEEP, "pause(); kill(pid)", is_deadly=True),
    "is killed later": Fate(_SLEEP, "kill_later(pid)", is_deadly=True),
    "exits with 0": Fate(
        "fifo = str(ctx.tmp_path / 'fifo')\n"
        "os.mkfifo(fifo)\n"
        "pid = ctx.start(['sh', '-c', 'read -r x < ' + fifo]).pid\n"
        "ctx.state['fifo'] = fifo",
        "pause(); open(plan.state['fifo'], 'w').close(); await_end(pid)",
        is_deadly=True,
    ),
}  # fmt: skip

CONFTEST = """
import os, signal
import pytest
"""
STEP = """
@pytest.mark.plan_step(needs=(), {options})
def {name}(ctx):
{body}
"""
TESTS = """
import os, random, select, signal, threading, time
import pytest

DRAW = random.Random({seed})
LATER = []

def pause():
    time.sleep(DRAW.uniform(0, 0.03))

def await_end(pid):
    try:
        number = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    select.select([number], [], [], 60)
    os.close(number)

def kill(pid):
    os.kill(pid, DRAW.choice([signal.SIGKILL, signal.SIGTERM]))
    await_end(pid)

def kill_later(pid):
    seconds = DRAW.uniform(0, 0.2)
    LATER.append(threading.Thread(target=lambda: (time.sleep(seconds), kill(pid))))
    LATER[-1].start()

def fork():
    if os.fork() == 0:
        os._exit(0)
    os.wait()
"""
TEST = """
@pytest.mark.plan("{name}")
def test_{name}(plan):
    pid = plan.state["{name} pid"]
    {act}
"""
LAST = """
def test_wait_for_those_who_kill_later():
    for thread in LATER:
        thread.join()
"""
