"""`plan.program` of a run whose steps another run has provisioned."""

from __future__ import annotations

import signal
import time
import urllib.error
import urllib.request

from tests.plugin.project import Project
from tests.plugin.sharing_runs import Runs, ended, nothing_left, until
from tests.plugin.test_programs import HELPERS, SERVER, SERVICE

TESTS = """
import pathlib, time
from helpers import ask, is_there

def test_owner(web):
    note("url", web)
    while not os.path.exists("go"):
        time.sleep(0.02)

def test_member(web, plan):
    program = plan.program("web")
    assert program.name.startswith("python")
    first = ask(web).split()[0]
    with pytest.raises(RuntimeError, match="of step 'web' is running; stop it first"):
        program.start()
    with pytest.raises(KeyError, match="step 'web' has started no program 'x'; its programs: 'py"):
        plan.program("web", "x")
    program.stop()
    assert not is_there(web)
    program.start()
    assert ask(web).split()[0] != first
    program.kill()

def test_next(web):
    assert is_there(web)

def test_killed(web, plan):
    plan.program("web").kill()
    assert not is_there(web)
    pathlib.Path("stopped").touch()
    time.sleep(600)

def test_silent(web, plan):
    with pytest.raises(RuntimeError, match=r"the owner .* has not answered for 1\\.00s"):
        plan.program("web")
"""


def is_there(url: str) -> bool:
    """Return whether the server answers."""
    try:
        with urllib.request.urlopen(url) as answer:
            return bool(answer.read())
    except urllib.error.URLError:
        return False


def test_a_member_stops_and_starts_programs_of_the_owner(runs: Runs, project: Project) -> None:
    """The owner does it, also for workers; it restores what a killed member has left stopped."""
    project.write("server.py", SERVER)
    project.write("helpers.py", HELPERS)
    project.steps(SERVICE)
    project.tests(TESTS)
    owner = runs("-k", "owner", "-o", "plan_share_lease=1s")
    until(owner, "web")
    assert "2 passed" in ended(runs("-k", "member or next", "-p", "xdist", "-n1"))
    url = project.calls[0].split()[1]
    killed = runs("-k", "killed")
    while not (project.path / "stopped").exists():
        assert killed.poll() is None
    assert not is_there(url)
    killed.kill()
    killed.communicate()
    while not is_there(url):
        assert owner.poll() is None
        time.sleep(0.05)
    owner.send_signal(signal.SIGSTOP)
    assert "1 passed" in ended(runs("-k", "silent"))
    owner.send_signal(signal.SIGCONT)
    (project.path / "go").touch()
    assert "1 passed" in ended(owner)
    nothing_left(project)
