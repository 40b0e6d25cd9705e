"""A project whose step leaves daemons running that hide from their step."""

from __future__ import annotations

from pytest_plan.engine.processes.identity import birth_of
from tests.faults.harness.scenario import Run

# It forks twice, leaves its session, closes its files and has an empty environment. It has a child.
HIDING = """\
import os, sys
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
os.closerange(0, 256)
code = 'sleep 600 & echo $$ $! >"$0.new"; mv "$0.new" "$0"; wait'
os.execve("/bin/sh", ["sh", "-c", code, sys.argv[1]], {"PATH": os.defpath})
"""
_CONFTEST = f"""\
import os, shutil, sys

HIDING = {HIDING!r}
METHODS = METHODS_HERE
OPTIONS = OPTIONS_HERE
PYTHON = shutil.which("python3", path=os.defpath) if OPTIONS else sys.executable

def pytest_plan_configure(plan):
    from pytest_plan import GenericStep

    def exec(ctx):
        for method in METHODS:
            file = ctx.tmp_path / method
            ctx.tmp_path.chmod(0o777)
            getattr(ctx, method)([PYTHON, "-c", HIDING, str(file)], **OPTIONS)
            ctx.wait_until(file.exists)
            with open("daemons", "a") as daemons:
                daemons.write(file.read_text())

    plan.add_step(GenericStep(exec=exec), name="net")
"""


def write_project(
    run: Run, kill: int, methods: tuple[str, ...] = ("run", "start"), **options: str
) -> None:
    """Write a project whose step leaves a daemon with each method, and whose test ends the run.

    Args:
        run: the run.
        kill: the signal that the test sends to its own process; 0 lets it pass.
        methods: the methods of `ctx` that run the program that leaves the daemon.
        options: the arguments of these methods.
    """
    conftest = _CONFTEST.replace("METHODS_HERE", repr(methods))
    run.write("conftest.py", conftest.replace("OPTIONS_HERE", repr(options)))
    run.write("test_it.py", f"import os\ndef test_it(net):\n    os.kill(os.getpid(), {kill})\n")


def daemons_of(run: Run) -> list[int]:
    """Return the process ids that the step has written to the file `daemons`."""
    path = run.project / "daemons"
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def expect_daemons_gone(run: Run, count: int) -> None:
    """Check that the step had left `count` processes, and that none of them is running."""
    daemons = daemons_of(run)
    run.expect(len(daemons) == count, f"daemons: {daemons}")
    left = [pid for pid in daemons if birth_of(pid)]
    run.expect(not left, f"left running: {left}")
