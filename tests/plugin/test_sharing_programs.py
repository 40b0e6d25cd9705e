"""`plan.program` of a run whose steps another run has provisioned."""

from __future__ import annotations

import contextlib
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.model.secret import Masker
from pytest_plan.plugin.run.environments.sharing.link import Link
from pytest_plan.plugin.run.environments.sharing.programs import ProgramAnswers, ProgramRequests
from pytest_plan.sharing.urls import open_store
from tests.plugin.project import Project, until
from tests.plugin.sharing_runs import Runs, ended, nothing_left
from tests.plugin.test_programs import HELPERS, SERVER, SERVICE
from tests.sharing.runs import joining

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
    with pytest.raises(RuntimeError, match=r"the owner .* has not answered for 5\\.00s"):
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


def test_a_request_needs_the_key_of_the_owner(tmp_path: Path) -> None:
    """Through a server, the URL alone does not give the right to stop programs of the owner."""
    with contextlib.ExitStack() as ending:
        stores = [open_store("local", tmp_path) for _ in range(3)]
        runs = [joining(lease=1.0) for _ in stores]
        links = []
        for store, run in zip(stores, runs, strict=True):
            joined = store.join("build-7", run)
            links.append(Link(store, joined, run.project, run.member, is_local=False))
        key = Key("ab" * 32)
        calls: list[tuple[str, str, str | None]] = []

        def control(action: str, step: str, name: str | None) -> str:
            calls.append((action, step, name))
            if name == "x":
                raise TimeoutError("not ready: s3cret")
            return "server"

        masker = Masker()
        masker.learn_text(["s3cret"])
        answers = ProgramAnswers(links[0], key, control, lambda step: step == "web", masker.mask)
        links[0].on_news = answers.on_news
        for link in links:
            link.begin()
            ending.callback(link.end)
        ours, others = ProgramRequests(links[1], key), ProgramRequests(links[2], Key("cd" * 32))
        assert ours.control("stop", "web", None) == "server"
        for step, name, error in (
            ("web", "x", TimeoutError), ("own", None, KeyError), ("web", "y", RuntimeError),
        ):  # fmt: skip
            requests = others if name == "y" else ours
            with pytest.raises(error) as caught:
                requests.control("start", step, name)
            assert "s3cret" not in str(caught.value)
        assert "another PYTEST_PLAN_KEY; set it to the same secret" in str(caught.value)
        assert calls == [("stop", "web", None), ("start", "web", "x")]
        assert stores[0].versions(links[0].access) == {}
