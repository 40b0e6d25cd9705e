"""`--plan-follow` prints the logs of steps as they grow."""

from __future__ import annotations

import contextlib
import os
import re

import pytest

from tests.plugin.project import Project, refuses
from tests.plugin.talking import STEPS, TALK
from tests.xdist.cluster import Cluster, wait_until

TESTS = """
from talk import say

def test_one(db, web, plan):
    from pytest_plan import Secret
    plan.state["password"] = Secret("hunter2")
    print("captured")
    say(db, "first\\npassword=hunter2\\n\\x1b[31mred\\n")
    say(web, "of web\\n")

def test_two(db):
    say(db, "last and without its end")
"""
WORKERS = pytest.mark.parametrize("workers", ["0", "2"])


def followed(text: str, step: str = "db") -> list[str]:
    """Return the lines of a step, without the command that has started the program."""
    lines = re.findall(rf"^{step} \| (.*)$", text, re.MULTILINE)
    return [line for line in lines if not line.startswith("$ ")]


def read_until(terminal: int, text: bytes | None) -> bytes:
    """Read until `text` has come, or to the end."""
    found = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while (text is None or text not in found) and (more := os.read(terminal, 100_000)):
            found += more
    return found


@pytest.fixture
def talking(cluster: Cluster) -> Cluster:
    """A project whose steps are servers that print what `say` sends."""
    cluster.write("talk.py", TALK)
    cluster.steps(STEPS)
    cluster.tests(TESTS)
    return cluster


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("options", [[], ["-s"], ["-v"], ["-q"], ["--capture=sys"]])
def test_the_lines_are_printed(talking: Cluster, workers: str, options: list[str]) -> None:
    """Whole, masked and with the name of the step, and those of other steps are not."""
    said = talking.apart("--plan-follow=db", "-n", workers, *options).stdout.str()
    assert followed(said) == ["first", "password=***", "red", "last and without its end"]
    assert followed(said, "web") == []
    assert ("captured" in said) == (options == ["-s"] and workers == "0")


def test_several_steps(talking: Cluster) -> None:
    """The option can be given several times, and names can be separated by commas."""
    for options in (["--plan-follow=db", "--plan-follow=web"], ["--plan-follow=web,db"]):
        said = talking.apart(*options).stdout.str()
        assert followed(said)[0] == "first"
        assert followed(said, "web") == ["of web"]


def test_without_a_terminal_reporter(talking: Cluster) -> None:
    """With `-p no:terminal`, the lines are all that is printed."""
    result = talking.apart("--plan-follow=db", "-p", "no:terminal", "-n", "0")
    assert all(line.startswith("db | ") for line in result.outlines)
    assert followed(result.stdout.str())[0] == "first"


@WORKERS
def test_the_lines_come_while_a_test_runs(talking: Cluster, workers: str) -> None:
    """Below the line that pytest has begun, and the next line of pytest is whole."""
    talking.tests("""
        from pathlib import Path
        from talk import say

        def test_zero(db): pass

        def test_one(db, plan):
            say(db, "first\\n")
            print("captured")
            while not Path("go").exists():
                plan.state.get("x")
    """)
    with talking.start("--plan-follow=db", "-n", workers) as run:
        wait_until(lambda: followed(run.output()) == ["first"])
        (talking.path / "go").touch()
        result = run.end()
    assert result.ret == 0
    assert "captured" not in result.stdout.str()
    index = result.outlines.index("db | first")
    before = [line for line in result.outlines[:index] if not line.startswith("db | ")]
    assert re.fullmatch(r"(test_it.py )?\.", before[-1])
    assert re.fullmatch(r"\. +\[100%\]", result.outlines[index + 1])


def test_a_step_that_fails(talking: Cluster) -> None:
    """Its lines are printed while it runs and before its failure is shown."""
    talking.steps("""
        @pytest.mark.plan_step
        def db(ctx):
            ctx.log("starting")
            print("not yet", end="")
            raise OSError("no db")
    """)
    talking.tests("def test_it(db): pass")
    said = talking.apart("--plan-follow=db").stdout.str()
    assert followed(said.partition("= ERRORS")[0]) == ["starting", "not yet"]


def test_an_unknown_step_is_refused(project: Project) -> None:
    """The message names the option and the steps."""
    project.write("talk.py", TALK)
    project.steps(STEPS)
    project.tests("def test_it(db): pass")
    refuses(project.run("--plan-follow=bd"), "--plan-follow: unknown step 'bd'", "db, web, other")


def test_colors(talking: Cluster) -> None:
    """Each step has a color, if pytest shows colors."""
    said = talking.apart("--plan-follow=db,web", "--color=yes").stdout.str()
    assert "\x1b[36mdb | \x1b[0mfirst\n" in said
    assert "\x1b[35mweb | \x1b[0mof web\n" in said


def test_a_terminal_that_closes(talking: Cluster) -> None:
    """The tests go on, and cleanup is made."""
    talking.tests("""
        from pathlib import Path
        from talk import say

        def test_it(db):
            say(db, "first\\n")
            while not Path("go").exists():
                pass
            say(db, "second\\n" * 100_000)
            Path("ended").touch()
    """)
    ours, theirs = os.openpty()
    with talking.start("--plan-follow=db", "--color=no", output=theirs) as run:
        os.close(theirs)
        read_until(ours, b"db | first")
        os.close(ours)
        (talking.path / "go").touch()
        wait_until((talking.path / "ended").exists)
        wait_until(lambda: not run.is_running())
        wait_until(lambda: not run.processes())


def test_a_terminal_that_stops(talking: Cluster) -> None:
    """Tests go on while nobody reads, and then all lines are there."""
    talking.tests("""
        from pathlib import Path
        from talk import say

        def test_it(db):
            say(db, "x\\n" * 100_000)
            Path("ended").touch()
    """)
    ours, theirs = os.openpty()
    with talking.start("--plan-follow=db", "--color=no", output=theirs) as run:
        os.close(theirs)
        wait_until((talking.path / "ended").exists)
        found = read_until(ours, None)
        wait_until(lambda: not run.is_running())
    os.close(ours)
    assert found.count(b"db | x\r\n") == 100_000
    assert b"1 passed" in found


SPEAKS = """
import logging, multiprocessing, sys

def copy(): print("of a copy")

@pytest.mark.plan_step
def db(ctx):
    print("printed")
    ctx.log("noted")
    logging.warning("recorded")
    ctx.run(["sh", "-c", "echo of a program; echo hunter2; printf '\\\\033[2Jtail'"])
    print("also printed")
    process = multiprocessing.get_context("fork").Process(target=copy)
    process.start()
    process.join()

@pytest.mark.plan_step
def loud(ctx):
    ctx.run([sys.executable, "-c", "for n in range(2_000): print('x' * 999, n)"])
"""


def test_without_capture_all_output_of_steps_is_shown_once(cluster: Cluster) -> None:
    """With `-s`, also that of programs: in whole lines, masked, and not more than can be read."""
    cluster.steps(
        "from pytest_plan import Secret\n"
        "from pytest_plan.report.terminal import follow\n"
        "follow._EVERY = 60.0  # the thread does not look while a program writes\n"
        "def pytest_plan_configure(plan): plan.state['password'] = Secret('hunter2')\n" + SPEAKS
    )
    cluster.tests("def test_it(db, loud): print('of a test')")
    result = cluster.apart("-s", "-n", "1")
    assert result.ret == 0
    of_db = [line for line in result.outlines if line.startswith(("db | ", "plan: db    ok"))]
    assert of_db[-1].startswith("plan: db    ok")
    assert [line for line in of_db if "printed" in line] == ["db | printed", "db | also printed"]
    others = [line for line in of_db[:-1] if "printed" not in line and "| $ " not in line]
    assert others == [
        *[
            "db | noted",
            "db | WARNING  root: recorded",
            "db | of a program",
            "db | ***",
            "db | \\x1b[2Jtail",
            "db | of a copy",
        ],
    ]
    of_loud = followed(result.stdout.str(), "loud")
    left_out = next(line for line in of_loud if line.endswith("bytes are not shown here)"))
    assert int(re.sub(r"\D", "", left_out)) > 900_000
    assert of_loud[-1].endswith("x 1999")
    assert len(of_loud) < 1_200
