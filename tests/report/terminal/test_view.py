"""The live view on a terminal: one line for each step that is running."""

from __future__ import annotations

import ast
import re
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.plugin.project import Project
from tests.report.support.screen import Terminal

STEPS = """
import pathlib, time

def wait_for(name):
    while not pathlib.Path(name).exists(): time.sleep(0.01)

@pytest.mark.plan_step(needs=(), retries=2, retry_wait=0)
def db(ctx):
    if ctx.attempt == 1: raise OSError("no port")
    ctx.log("connecting to port 5432")
    ctx.log("")
    wait_for("go")
    ctx.log("wide \\u4f60\\u597d " * 40)
    wait_for("on")
    yield
    wait_for("end")

@pytest.mark.plan_step(needs=())
def web():
    wait_for("go")
    wait_for("on")
"""
FRAMES = """
from pytest_plan.report.terminal.view import LiveView

def write(file, data, real=LiveView._write):
    with open("frames.txt", "a") as frames: print(repr(data), file=frames)
    return real(file, data)

LiveView._write = staticmethod(write)
"""
Start = Callable[..., Terminal]


@pytest.fixture
def start(project: Project) -> Iterator[Start]:
    """A function that starts pytest on a terminal."""
    started: list[Terminal] = []

    def begin(*args: str, columns: int = 100, rows: int = 24) -> Terminal:
        started.append(Terminal(project.path, *args, columns=columns, rows=rows))
        return started[-1]

    yield begin
    for terminal in started:
        terminal.close()


def running(lines: list[str]) -> list[str]:
    """Return the lines of the view: those below all others."""
    return [line for line in lines if re.search(r"  (running|cleaning up)  ", line)]


def has(*words: str) -> Callable[[list[str]], bool]:
    """Return whether each of these texts is in a line of the view."""
    return lambda lines: all(any(word in line for line in running(lines)) for word in words)


def test_running_steps_are_shown_until_they_end(project: Project, start: Start) -> None:
    """The view shows name, time, attempt and log, follows the size, and leaves nothing behind."""
    project.steps(STEPS)
    project.tests("def test_it(db, web): pass")
    terminal = start("--plan-jobs=2")
    found = terminal.read_until(has("attempt 2 of 3  connecting", "web  running"))
    assert re.fullmatch(
        r"plan: db   running  \d+s  attempt 2 of 3  connecting to port 5432", running(found)[0]
    )
    assert re.fullmatch(r"plan: web  running  \d+s", running(found)[1])
    assert found[-3:-1] == running(found)
    assert sum("retry" in line for line in found) == 1
    (project.path / "go").touch()
    terminal.read_until(has("\u4f60"))
    terminal.resize(40, 24)
    found = terminal.read_until(lambda lines: any("\u2026" in x for x in running(lines)))
    narrow = terminal.read_until(lambda lines: len(running(lines)[0]) < 40)
    assert len(running(narrow)) == 2, found
    (project.path / "on").touch()
    terminal.read_until(has("db  cleaning up"))
    (project.path / "end").touch()
    status, lines = terminal.read_all()
    assert status == 0
    assert running(lines) == []
    ends = [re.sub(r"[\d.]+s", "T", line) for line in lines if line.startswith("plan: ")]
    assert sorted(ends) == [
        "plan: db   cleanup ok T",
        "plan: db   ok        T  attempt 2",
        "plan: db   retry     attempt 1 of 3 failed: OSError: no port; retrying in T",
        "plan: web  ok        T",
    ]


def test_more_steps_than_rows(project: Project, start: Start) -> None:
    """The view is never higher than the terminal, says what it leaves out, and is one write."""
    steps = "".join(
        f"@pytest.mark.plan_step(needs=())\ndef s{number}(): wait_for('go')\n"
        for number in range(20)
    )
    project.steps(STEPS.partition("@")[0], FRAMES, steps)
    names = ", ".join(f"s{number}" for number in range(20))
    project.tests(f"def test_it({names}): pass")
    terminal = start("--plan-jobs=20", rows=8)
    found = terminal.read_until(lambda lines: any("more steps" in line for line in lines))
    assert len(running(found)) == 5
    assert found[-2] == "plan: and 15 more steps"
    (project.path / "go").touch()
    status, lines = terminal.read_all()
    assert status == 0
    assert running(lines) == []
    assert not [line for line in lines if "more steps" in line]
    assert len([line for line in lines if re.match(r"plan: s\d+ +ok ", line)]) == 20
    writes = [
        ast.literal_eval(line) for line in (project.path / "frames.txt").read_text().splitlines()
    ]
    frames = [data for data in writes if b"running" in data]
    assert frames
    assert all(data.count(b"plan: ") == data.count(b"\n") for data in frames)
    assert all(data.endswith(b"\x1b[J") for data in writes)


@pytest.mark.parametrize("args", [["-q"], ["-s"], ["-o", "log_cli=1"], ["--capture=sys"]])
def test_no_view_where_others_write(project: Project, start: Start, args: list[str]) -> None:
    """With `-q`, `-s`, `log_cli` and `--capture=sys`, no line is ever removed."""
    project.steps("""
        import time
        @pytest.mark.plan_step
        def db():
            print("a word")
            time.sleep(1.5)
    """)
    project.tests("def test_it(db): pass")
    terminal = start(*args)
    assert terminal.read_until(lambda lines: any(" passed" in line for line in lines))
    assert terminal.read_all()[0] == 0
    assert not running(terminal.screen.lines)
    assert any("db | a word" in line for line in terminal.screen.lines) is ("-s" in args)


def test_ctrl_c_says_what_happens_next(project: Project, start: Start) -> None:
    """The first Ctrl-C says what is cleaned up, and what another one does; so does the second."""
    project.steps(STEPS)
    project.tests("def test_it(db, web): pass")
    (project.path / "go").touch()
    terminal = start("--plan-jobs=2")
    terminal.read_until(has("db   running", "web  running"))
    (project.path / "on").touch()
    terminal.read_until(lambda lines: any("test_it.py" in line for line in lines))
    terminal.read_until(has("cleaning up"))
    terminal.send_signal(signal.SIGINT)
    terminal.read_until(
        lambda lines: (
            ("plan: interrupted; still cleaning up: db; another Ctrl-C leaves that to the reaper")
            in lines
        )
    )
    (project.path / "end").touch()
    status, lines = terminal.read_all()
    assert status == 2
    assert any(line.startswith("plan: db   cleanup ok") for line in lines)
    assert running(lines) == []
