"""`--plan-status`: what it shows of each environment, and that it changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.project import Project, refuses
from tests.plugin.test_foreign_journals import contents

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who listens")

WORKERS = pytest.mark.parametrize(
    "workers", [(), ("-p", "xdist", "-n", "2")], ids=["solo", "xdist"]
)
STEPS = """
import sys

SERVER = '''
import os, socket, sys, time
server = socket.create_server(("127.0.0.1", 0))
print("listening", flush=True)
with open("server.new", "w") as file:
    file.write(f"{os.getpid()} {server.getsockname()[1]}")
os.rename("server.new", "server")
time.sleep(600)
'''

def asked(value):
    note("asked")
    return True

@pytest.mark.plan_step
def server(ctx):
    ctx.start([sys.executable, "-c", SERVER])
    ctx.wait_until(lambda: os.path.exists("server"), timeout=30)

@pytest.mark.plan_step(alive=asked, cleanup=lambda value: note("drop"))
def schema(server): note("schema")
"""
TESTS = "def test_it(schema): note('test')"


@pytest.fixture
def project(project: Project) -> Project:
    """A project with a server and a step that is in it."""
    project.steps(STEPS)
    project.tests(TESTS)
    return project


@pytest.fixture
def kept(project: Project) -> Any:
    """A project whose environment was kept; it is cleaned up when the test ends."""
    assert project.run_apart("--plan-keep", "always").ret == 0
    yield project
    project.run_apart("--plan-cleanup")


def show(project: Project, *args: str, status: int = 0) -> list[str]:
    """Return the lines of `--plan-status`."""
    result = project.run_apart("--plan-status", *args)
    assert result.ret == status, result.stdout.str() + result.stderr.str()
    return [line for line in result.outlines if line.startswith("plan:")]


def read(project: Project, *args: str, status: int = 0) -> Any:
    """Return what `--plan-status --plan-json` writes to standard output."""
    result = project.run_apart("--plan-status", "--plan-json", *args)
    assert result.ret == status, result.stdout.str() + result.stderr.str()
    return json.loads(result.stdout.str())


def server(project: Project) -> list[int]:
    """Return the process id of the server, and its port."""
    return [int(word) for word in (project.path / "server").read_text().split()]


def kill(project: Project) -> None:
    """Kill the server, and wait until it has ended."""
    pid = server(project)[0]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_there_is_nothing(project: Project) -> None:
    """Without environments it succeeds, and creates no folder."""
    assert show(project) == ["plan: there are no environments"]
    assert read(project) == {
        "schema": 1,
        "plan_dir": str(project.path / ".pytest_plan"),
        "environments": [],
        "unreadable": [],
    }
    assert not (project.path / ".pytest_plan").exists()
    assert project.calls == []


@WORKERS
def test_a_kept_environment_is_shown(kept: Project, workers: tuple[str, ...]) -> None:
    """Its name, run and age; of each step its outcome, state, addresses and log."""
    (environment,) = read(kept, *workers)["environments"]
    schema, pid, port = environment["steps"][1], *server(kept)
    run = environment["run"]
    log = kept.path / ".pytest_plan" / "artifacts" / run / "server" / "log.txt"
    assert {key: environment[key] for key in ("name", "use", "kept_by", "host", "dead")} == {
        "name": "default",
        "use": "kept",
        "kept_by": run,
        "host": os.uname().nodename,
        "dead": False,
    }
    assert 0 < environment["age_seconds"] < 600
    output = Path(environment["steps"][0]["output"])
    assert output.read_text().endswith("listening\n")
    assert environment["steps"][0] == {
        "name": "server",
        "outcome": "succeeded",
        "cleanup": "none",
        "alive": True,
        "reason": "",
        "listens": [f"127.0.0.1:{port}"],
        "run": run,
        "log": str(log),
        "output": str(output),
    }
    assert (schema["alive"], schema["listens"], schema["log"]) == (None, [], None)
    assert log.read_text().endswith("listening\n")
    head, titles, first, second, writes = show(kept, *workers)
    assert head.startswith(f"plan: environment 'default' was kept by run {run} (process ")
    assert titles.split() == ["plan:", "step", "outcome", "state", "listens", "on", "log"]
    shown = log.relative_to(kept.path)
    assert first.split() == [
        "plan:", "server", "succeeded", "alive", f"127.0.0.1:{port}", str(shown)
    ]  # fmt: skip
    assert second.split() == ["plan:", "schema", "succeeded", "unchecked"]
    assert writes == f"plan:   server writes to {output} (not masked)"
    os.kill(pid, 0)


def test_nothing_is_changed_or_called(kept: Project) -> None:
    """No file is written, no step runs, and no `alive` hook is called."""
    before = contents(kept.path / ".pytest_plan")
    show(kept)
    read(kept)
    assert contents(kept.path / ".pytest_plan") == before
    assert kept.calls == ["schema", "test"]


def test_a_dead_program_is_shown(kept: Project) -> None:
    """The exit status is 1, and the output has the command that rebuilds the step."""
    kill(kept)
    lines = show(kept, "-q", status=1)
    assert "succeeded  dead: its process ended" in lines[2]
    assert lines[-1] == "plan:   to rebuild what is dead: pytest -p pytest_plan --plan-reuse"
    (environment,) = read(kept, status=1)["environments"]
    assert environment["dead"]
    assert [step["alive"] for step in environment["steps"]] == [False, None]
    assert environment["steps"][0]["listens"] == []
    (kept.path / "server").unlink()
    assert kept.run_apart("--plan-reuse").ret == 0
    show(kept)


def test_a_lost_temporary_folder_is_shown(project: Project) -> None:
    """A step is dead, too, if the temporary folder of its run is gone."""
    project.steps("@pytest.mark.plan_step\ndef data(ctx): note(ctx.tmp_path)")
    project.tests("def test_it(data): pass")
    assert project.run_apart("--plan-keep", "always").ret == 0
    assert [step["alive"] for step in read(project)["environments"][0]["steps"]] == [None]
    shutil.rmtree(Path(project.calls[0]).parent)
    assert "dead: the temporary folder of its run is gone" in show(project, status=1)[2]
    assert project.run_apart("--plan-cleanup").ret == 0


def test_the_run_that_made_a_step_is_shown(kept: Project) -> None:
    """A run that reuses a step keeps the environment; the log is that of the run that made it."""
    (before,) = read(kept)["environments"]
    assert kept.run_apart("--plan-reuse").ret == 0
    assert kept.run_apart("--plan-reuse").ret == 0
    (after,) = read(kept)["environments"]
    assert after["kept_by"] == after["run"] != before["run"]
    assert after["steps"] == before["steps"]


def test_an_environment_in_use_is_shown(project: Project) -> None:
    """A run that is in progress is no reason for an exit status of 1."""
    project.tests("""
    import subprocess, sys

    def test_it(schema):
        argv = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "--plan-status"]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        note(f" (process {os.getpid()} on " in done.stdout, " is in use by run " in done.stdout)
    """)
    assert project.run_apart().ret == 0
    assert project.calls == ["schema", "True True", "drop"]


def test_what_a_killed_run_has_left_is_shown(project: Project) -> None:
    """The exit status is 1, and the output has the command that cleans up."""
    project.write("pytest.ini", "[pytest]\nplan_reaper = false\n")
    project.tests("def test_it(schema): os.kill(os.getpid(), 9)")
    project.run_apart()
    head, *_, last = show(project, status=1)
    assert " was left by run " in head
    assert last == "plan:   to clean it up: pytest -p pytest_plan --plan-cleanup"
    (environment,) = read(project, status=1)["environments"]
    assert (environment["use"], environment["kept_by"]) == ("left", None)
    assert project.run_apart("--plan-cleanup").ret == 0
    assert show(project) == ["plan: there are no environments"]


def test_one_environment_can_be_named(kept: Project) -> None:
    """Only that one is shown, and decides about the exit status."""
    kill(kept)
    (kept.path / "server").unlink()
    assert kept.run_apart("--plan-keep", "always", "--plan-environment", "blue").ret == 0
    assert len(read(kept, status=1)["environments"]) == 2
    (blue,) = read(kept, "--plan-environment", "blue")["environments"]
    assert blue["name"] == "blue"
    refuses(
        kept.run_apart("--plan-status", "--plan-environment", "red"),
        "--plan-environment: there is no environment 'red'; known environments: default, blue",
    )


def test_foreign_and_damaged_journals_are_named(
    kept: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known about a foreign journal, but a damaged one is not as it was recorded."""
    with monkeypatch.context() as other:
        other.setenv("PYTEST_PLAN_KEY", "1" * 64)
        (line,) = show(kept)
        assert line.startswith("plan: environment 'default' cannot be shown: the journal ")
        (one,) = read(kept)["unreadable"]
        assert (one["name"], one["foreign"]) == ("default", True)
    file = kept.path / ".pytest_plan" / "environments" / "default" / "journal.sqlite"
    whole = file.read_bytes()
    file.write_bytes(b"damaged" * 1000)
    (one,) = read(kept, status=1)["unreadable"]
    assert (one["name"], one["foreign"]) == ("default", False)
    file.write_bytes(whole)


def test_no_code_of_the_project_is_needed(kept: Project) -> None:
    """A broken conftest is reported on standard error, so the JSON is valid."""
    path = kept.path / "conftest.py"
    source = path.read_text()
    path.write_text("def broken(:")
    assert read(kept, "-v")["environments"][0]["name"] == "default"
    path.write_text(source)


@pytest.mark.parametrize("addopts", ["-v -ra --durations=1", "-q"])
def test_json_is_all_there_is(kept: Project, addopts: str) -> None:
    """Options and plugins do not add to standard output, which another program reads."""
    kept.write("pytest.ini", f"[pytest]\naddopts = {addopts} -p noisy\n")
    kept.write(
        "noisy.py",
        """
        def pytest_configure(): print("noise")
        def pytest_sessionstart(): print("noise")
        def pytest_sessionfinish(session):
            print("noise")
            session.config.get_terminal_writer().line("noise")
    """,
    )
    assert read(kept)["environments"][0]["name"] == "default"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--plan-json"], "--plan-json can only be used with --plan-status"),
        (["--plan-status", "--plan-cleanup"], "--plan-cleanup and --plan-status cannot be used"),
        (["--plan-status", "--plan-show"], "--plan-show and --plan-status cannot be used"),
        (["--plan-status", "--plan-forget=server"], "--plan-forget and --plan-status cannot be"),
        (["--plan-status", "--plan-environment="], "--plan-environment: invalid environment name"),
    ],
)
def test_commands_exclude_one_another(project: Project, args: list[str], text: str) -> None:
    """The message names both commands."""
    refuses(project.run_apart(*args), text)
    assert project.calls == []


def test_a_command_has_no_variable_and_no_ini_value(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run cannot become a command by accident."""
    monkeypatch.setenv("PYTEST_PLAN_STATUS", "1")
    monkeypatch.setenv("PYTEST_PLAN_JSON", "1")
    assert project.run_apart().ret == 0
    assert project.calls == ["schema", "test", "drop"]
