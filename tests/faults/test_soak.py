"""Row 86: random runs with random faults and signals; the checker finds what is planted."""

from __future__ import annotations

import socket
from collections import Counter
from dataclasses import replace

from tests.faults.harness.scenario import PATIENCE, Run, Stage, Story
from tests.faults.soak.plans import Drawn, Shot, StepData, TestData, draw
from tests.faults.soak.story import Injected, play

SHORT = 40  # runs
AT_ONCE = 6

STEP = StepData(
    name="s0", kind="generator", needs=(), program="server", files=("durable", "durable"),
    fault=None, late=True, attempted=False, options={},
)  # fmt: skip
PLAN = Drawn(
    seed=0, steps=(STEP,), tests=(TestData(("s0",), None),), workers=False, arguments=(),
    is_short=False, shots=(),
)  # fmt: skip

DAEMON = """
import os, subprocess, sys
code = '''
import os, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
time.sleep(600)
'''
outside = os.environ["SOAK_OUTSIDE"]
subprocess.run([sys.executable, "-c", code, {word}], env={env}, cwd={cwd})
"""
EXIT = "    import os\n    os._exit({status})\n"
PLANTS = {
    "a daemon with its environment": (
        "known by its environment",
        DAEMON.format(word="'-'", env="dict(os.environ)", cwd="'/'"),
    ),
    "a daemon with its arguments": (
        "known by its arguments",
        DAEMON.format(word="outside", env="{}", cwd="'/'"),
    ),
    "a daemon with its folder": (
        "known by its files",
        DAEMON.format(word="'-'", env="{}", cwd="outside"),
    ),
    "a file": (
        "not removed: s0.left",
        "import os\nopen(os.environ['SOAK_OUTSIDE'] + '/s0.left', 'w')\n",
    ),
    "a temporary folder": (
        "temporary folder left",
        "import tempfile\ntempfile.mkdtemp(prefix='plan-')\n",
    ),
    "a lost tail": ("was cleaned up 0 times", "steps.tail = lambda *words: None\n"),
    "a repeated tail": (
        "was cleaned up 2 times",
        "tail = steps.tail\nsteps.tail = lambda *words: (tail(*words), tail(*words))\n",
    ),
    "a lost undo": ("did not undo", "steps.undo = lambda *words: None\n"),
    "undos in the wrong order": (
        "what it made last was",
        "undo = steps.undo\nother = {'1.0.durable': '1.1.durable', '1.1.durable': '1.0.durable'}\n"
        "steps.undo = lambda name, token: undo(name, other[token])\n",
    ),
    "a wrong exit status": (
        "exit status 5",
        "@pytest.hookimpl(trylast=True)\ndef pytest_unconfigure():\n" + EXIT.format(status=5),
    ),
    "an internal error": (
        "INTERNALERROR",
        "def pytest_runtest_logreport():\n    raise RuntimeError\n",
    ),
    "a missing summary": ("no summary", "def pytest_sessionfinish():\n" + EXIT.format(status=1)),
    "a traceback": (
        "a traceback through pytest-plan",
        "def pytest_unconfigure():\n"
        "    print('Traceback (most recent call last):\\n  File \"/lib/pytest_plan/a.py\"')\n",
    ),
    "a program that dies": (
        "a test found nobody",
        # In the test itself: a test that begins after the loss is not run.
        "import psutil\nact = steps.act\ndef act_without_server(*words):\n"
        "    for child in psutil.Process().children():\n"
        "        if any('server.py' in word for word in child.cmdline()):\n"
        "            child.kill()\n            child.wait()\n    act(*words)\n"
        "steps.act = act_without_server\n",
    ),
}


def test_g2_random_runs_leave_nothing_and_end(stage: Stage) -> None:
    """Row 86: random plans, faults and signals, solo and with workers, judged from outside."""
    injected: Injected = Counter()
    for seed in range(SHORT):
        stage.add(str(seed), play, draw(seed), injected)
    stage.play(AT_ONCE)
    assert injected["run solo"] + injected["run with workers"] == SHORT


def test_g2_the_same_seed_draws_the_same_run() -> None:
    """A run that failed can be repeated alone."""
    assert [draw(seed) for seed in range(100)] == [draw(seed) for seed in range(100)]
    assert draw(1) != draw(2)


def test_g2_the_checker_of_the_soak_finds_planted_faults(stage: Stage) -> None:
    """Each planted fault is a violation that says what is wrong."""
    found: dict[str, list[str]] = {plant: [] for plant in PLANTS}
    for plant, (_, text) in PLANTS.items():
        stage.add(plant, planted, PLAN, text, found[plant])
    stage.play(AT_ONCE)
    assert not {
        plant: violations
        for plant, violations in found.items()
        if not any(PLANTS[plant][0] in violation for violation in violations)
    }


def test_g2_the_checker_of_the_soak_accepts_a_sound_run(stage: Stage) -> None:
    """Without a plant, the run of these tests has no violation."""
    stage.add("sound", play, PLAN, Counter())
    stage.play()


def test_g2_the_checker_of_the_soak_finds_a_hang(stage: Stage) -> None:
    """A run that does not end within the bound is a violation."""
    found: list[str] = []
    text = "def pytest_unconfigure():\n    import time\n    time.sleep(600)\n"
    stage.add("hang", planted, PLAN, text, found, bound=4.0)
    stage.play()
    assert found == ["it had not ended after 4.0 s"]


def test_g2_the_checker_of_the_soak_finds_an_open_port(stage: Stage) -> None:
    """A port of a step on which a program still listens after the run is a violation."""
    found: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        text = f"note('port', 's0', {listener.getsockname()[1]})\n"
        stage.add("port", planted, PLAN, text, found)
        stage.play()
    assert any("is still open" in one for one in found), found


def test_g7_the_checker_of_the_soak_finds_an_unreported_loss(stage: Stage) -> None:
    """A deferred closure that is lost with its process, unreported, is a violation."""
    found: list[str] = []
    step = replace(STEP, files=("closure",))
    tests, shots = (TestData(("s0",), "wait"),), (Shot(9, "owner", event=10, delay=0.0),)
    killed = replace(PLAN, steps=(step,), tests=tests, shots=shots)
    silence = """
import sys
@pytest.hookimpl(specname="pytest_configure")
def pytest_silence(config):
    if '--plan-cleanup' in sys.argv:
        config.get_terminal_writer()._file = open("/dev/null", "w")
"""
    stage.add("silence", planted, killed, silence, found)
    stage.play()
    assert any("was not reported" in one for one in found), found


def planted(run: Run, drawn: Drawn, text: str, found: list[str], bound: float = PATIENCE) -> Story:
    """Play a run with a planted fault; move its violations to `found`."""
    yield from play(run, drawn, Counter(), plant=text, bound=bound)
    found += run.wrong
    run.wrong.clear()
