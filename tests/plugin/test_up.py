"""An environment without tests: `--plan-up`, `--plan-export`, `--plan-logs` and `--plan-down`."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import IO

import pytest

from tests.plugin.project import Project, plan_lines, refuses

PATIENCE = 60  # seconds, far more than anything here takes
PROGRAM = """
import os, sys, time
print("it begins", flush=True)
open(sys.argv[1], "w").close()
while not os.path.exists("more"):
    time.sleep(0.05)
print("there is more", flush=True)
time.sleep(600)
"""
STEPS = """
import sys

@pytest.mark.plan_step
def server(ctx):
    ctx.log("hello from the step")
    ctx.start([sys.executable, "program.py", str(ctx.tmp_path / "begun")])
    ctx.wait_until((ctx.tmp_path / "begun").exists, timeout=60)
    ctx.setenv("SERVER_URL", "http://server:80")
    ctx.setenv("SERVER_NOTE", "it's\\n$HOME `x`")
    return "http://server:80"

@pytest.mark.plan_step(cleanup=lambda: note("drop"))
def schema(server):
    note("schema")

@pytest.mark.plan_step
def broken(ctx, schema):
    if os.environ.get("BREAK") == "signal":
        os.kill(os.getpid(), 2)
        ctx.sleep(600)
    assert "BREAK" not in os.environ

@pytest.mark.plan_step(needs=())
def generated():
    yield "soon gone"

@pytest.mark.plan_step(after_tests=True)
def upgrade(server):
    note("upgrade")

@pytest.mark.plan_step(per="worker", needs=())
def own(ctx):
    ctx.setenv("OWN", ctx.worker)
    return ctx.worker
"""
TESTS = """
def test_schema(schema): assert os.environ["SERVER_URL"]; note("test")
def test_broken(broken, schema): note("test")
def test_generated(generated): note("test")
def test_upgrade(upgrade): note("test")
def test_own(own): note("test")
def test_nothing(): note("test")
"""


@pytest.fixture
def project(project: Project) -> Iterator[Project]:
    """A project with steps of each kind. Its environments are cleaned up when the test ends."""
    project.steps(STEPS)
    project.tests(TESTS)
    project.write("program.py", PROGRAM)
    yield project
    if (project.path / ".pytest_plan").exists():
        assert project.run_apart("--plan-cleanup").ret == 0


def up(project: Project, *args: str, status: int = 0) -> list[str]:
    """Return the lines about the plan of a run with `--plan-up`, in which no test runs."""
    result = project.run_apart("--plan-up", *args)
    assert result.ret == status, result.stdout.str() + result.stderr.str()
    assert "test" not in project.calls
    return plan_lines(result)


def in_shell(project: Project, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script of sh in which `PYTEST` is pytest with the plugin."""
    command = f"{sys.executable} -m pytest -p pytest_plan"
    return subprocess.run(
        ["sh", "-c", script.replace("PYTEST", command)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        cwd=project.path,
    )


def test_an_environment_is_up_until_it_is_taken_down(project: Project) -> None:
    """Steps are provisioned and kept without a test, reused, exported to a shell, and cleaned up.

    The output shows what is up and what to type next.
    """
    lines = up(project, "-k", "test_schema")
    shown = lines[lines.index("plan: environment 'default' is up") + 1 :]
    assert [line.split()[1:4] for line in shown[:3]] == [
        ["step", "outcome", "state"],
        ["server", "succeeded", "alive"],
        ["schema", "succeeded", "unchecked"],
    ]
    assert shown[3:] == [
        "plan:   server = http://server:80",
        "plan:   variables: SERVER_NOTE, SERVER_URL (--plan-export prints them)",
        "plan: to run tests on it: pytest -p pytest_plan --plan-reuse",
        "plan: to see a log:       pytest -p pytest_plan --plan-logs server",
        "plan: to clean it up:     pytest -p pytest_plan --plan-down",
    ]
    shell = in_shell(
        project,
        """eval "$(PYTEST --plan-up --plan-export -k test_schema -s)"
        printf "%s|%s" "$SERVER_URL" "$SERVER_NOTE"
        """,
    )
    assert shell.stdout == "http://server:80|it's\n$HOME `x`"
    assert "server  reused" in shell.stderr
    assert project.calls == ["schema"]
    assert project.run_apart("--plan-reuse", "-q", "-k", "test_schema").ret == 0
    assert project.calls == ["schema", "test"]
    result = project.run_apart("--plan-down")
    assert result.ret == 0
    assert plan_lines(result)[-1] == "plan: nothing is left of environment 'default'"
    assert project.calls == ["schema", "test", "drop"]
    assert project.run_apart("--plan-status").ret == 0


def test_what_is_not_up_is_a_failure(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure or a signal, what succeeded is kept, and the next command tries the rest.

    A step that cannot be kept is not up.
    """
    monkeypatch.setenv("BREAK", "signal")
    lines = up(project, "-k", "broken", status=2)
    assert "plan: environment 'default' is partly up" in lines
    monkeypatch.setenv("BREAK", "yes")
    result = project.run_apart("--plan-up", "-q", "-k", "broken")
    assert result.ret == 1
    assert "plan: not up: broken (failed)" in result.outlines
    again = "dependencies: pytest -p pytest_plan --plan-up --plan-until broken"
    assert again in result.stdout.str()
    up_now = "plan: up: server, schema; to clean up: pytest -p pytest_plan --plan-down"
    assert up_now in result.outlines
    monkeypatch.delenv("BREAK")
    lines = up(project, "-k", "broken or generated", status=1)
    assert "plan: not up: generated (not kept)" in lines
    assert "plan:   broken  succeeded  unchecked" in [
        " ".join(line.split(" ", 3)) for line in lines
    ]
    assert project.calls == ["schema"]


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["-k", "nowhere"], "no test was selected; to provision a step without tests: pytest"),
        (["-k", "test_nothing"], "the selected tests need no step; to provision"),
        (["--noconftest"], "no steps are declared"),
    ],
    ids=["no test", "no need", "no step"],
)
def test_nothing_to_provision(project: Project, args: list[str], why: str) -> None:
    """If nothing is needed, a line says why, and the exit status is that of a run without tests."""
    result = project.run("--plan-up", *args)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    (line,) = plan_lines(result)
    assert line.startswith(f"plan: nothing was provisioned: {why}")
    assert project.calls == []


def test_steps_that_wait_for_tests(project: Project) -> None:
    """A step that waits for tests is left out unless `--plan-until` names it; no test is needed."""
    lines = up(project, "-k", "upgrade or schema")
    assert "plan: not provisioned, because no tests run: upgrade" in lines
    lines = up(project, "-k", "nowhere", "--plan-until", "upgrade")
    assert ["upgrade", "ok", "T"] in [line.split()[1:] for line in lines]
    assert project.calls == ["schema", "upgrade"]
    up(project, "--plan-until", "upgrade")
    assert project.calls == ["schema", "upgrade"]


def test_workers_find_their_steps(project: Project) -> None:
    """With `-n`, steps are provisioned for each worker, without workers, and a run reuses them."""
    xdist = ("-p", "xdist", "-n", "2", "-k", "own")
    lines = up(project, *xdist)
    assert [line for line in lines if " = gw" in line] == [
        "plan:   own@gw0 = gw0",
        "plan:   own@gw1 = gw1",
    ]
    result = project.run_apart("--plan-reuse", *xdist)
    assert result.ret == 0
    assert [line.split()[2] for line in plan_lines(result) if "own@gw" in line][:2] == [
        "reused"
    ] * 2


def test_secrets_are_not_shown(project: Project) -> None:
    """Neither variables nor logs show a secret, not even to a process that does not know it."""
    project.steps(
        """
        import sys

        @pytest.mark.plan_step
        def server(ctx):
            ctx.setenv("EARLY", "the-password")
            Secret("the-password")
            ctx.setenv("PLAIN", "plain")
            program = "import time; print('the-' + 'password', flush=True); time.sleep(600)"
            ctx.start([sys.executable, "-c", program])
            ctx.wait_until(lambda: "***" in (ctx.artifacts / "log.txt").read_text(), timeout=60)
            return "says the-" + "pass"
        """
    )
    project.tests("def test_it(server): pass")
    for _ in range(2):
        shell = in_shell(project, "PYTEST --plan-up --plan-export && PYTEST --plan-logs server")
        assert shell.stdout.startswith("export PLAIN=plain\n$ ")
        assert shell.stdout.endswith("\n***\n")
        assert "the-password" not in shell.stdout + shell.stderr
        assert "EARLY is not exported: it contains a secret" in shell.stderr
        assert "only the masked log of server is shown" in shell.stderr


def test_logs_are_printed_and_followed(project: Project) -> None:
    """`--plan-logs` prints the whole log and nothing else; `--plan-follow` adds what comes later.

    Ctrl-C ends it without an error. An unknown step is refused with suggestions.
    """
    up(project, "-k", "schema")
    logs = project.run_apart("--plan-logs", "server")
    assert logs.ret == 0
    assert [line for line in logs.outlines if not line.startswith("$ ")] == [
        "hello from the step",
        "it begins",
    ]
    argv = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "--plan-logs", "server"]
    with subprocess.Popen(
        [*argv, "--plan-follow", "server"], stdout=subprocess.PIPE, text=True, cwd=project.path
    ) as following:
        assert following.stdout is not None
        _read_until(following.stdout, "it begins")
        (project.path / "more").touch()
        _read_until(following.stdout, "there is more")
        following.send_signal(signal.SIGINT)
        assert following.wait(PATIENCE) == 0
    refuses(
        project.run("--plan-logs", "serber"),
        "--plan-logs: unknown step 'serber'; did you mean 'server'? (earlier runs have left ",
        "(environment 'default'))",
    )


def _read_until(lines: IO[str], text: str) -> None:
    for line in lines:
        if text in line:
            return
    raise AssertionError(f"the output ended without {text!r}")


def test_down_cleans_up_one_environment_that_is_not_in_use(project: Project) -> None:
    """Only the named environment is cleaned up; what a run uses is left, which is a failure."""
    project.tests(
        """
        import subprocess, sys
        def test_it(broken):
            argv = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "--plan-down"]
            down = subprocess.run(argv, capture_output=True, text=True)
            assert down.returncode == 1
            assert "nothing was cleaned up: the environment 'default' is in use" in down.stdout
        """
    )
    up(project, "--plan-environment", "other")
    assert project.run_apart("--plan-reuse").ret == 0
    assert project.run_apart("--plan-down").ret == 0
    left = project.run_apart("--plan-status")
    assert [line.split()[2] for line in plan_lines(left) if "was kept" in line] == ["'other'"]


def test_coverage_of_the_last_run_stays(project: Project) -> None:
    """Without tests, pytest-cov measures nothing: its data stays, and no minimum is missed."""
    data = project.write(".coverage", "the data of the last run")
    for command in (["--plan-up", "-k", "test_own"], ["--plan-down"]):
        coverage = ["-p", "pytest_cov.plugin", "--cov=.", "--cov-fail-under=99"]
        result = project.run_apart(*coverage, *command)
        assert result.ret == 0, result.stdout.str()
        assert data.read_text() == "the data of the last run"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--plan-up", "--plan-down"], "--plan-up and --plan-down cannot be used together"),
        (["--plan-up", "--plan-keep", "failed"], "--plan-keep failed cannot be used with it"),
        (["--plan-up", "--plan-environment", "run-1"], "invalid environment name 'run-1'"),
        (["--plan-up", "--plan-until", "upgrad"], "did you mean 'upgrade'?"),
        (["--plan-export"], "--plan-export can only be used with --plan-up"),
        (["--plan-logs", ""], "--plan-logs: the name of a step is missing"),
        (["--plan-logs", "server", "--plan-environment", "x"], "there is no environment 'x'"),
    ],
)
def test_refused(project: Project, args: list[str], text: str) -> None:
    """Options that cannot work are refused before anything runs, with the cure."""
    refuses(project.run(*args), text)
    assert not (project.path / ".pytest_plan").exists()


def test_an_environment_of_somebody_else_is_not_replaced(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the kept environment was not written by this user, nothing is provisioned beside it."""
    assert project.run_apart("--plan-up", "-k", "broken").ret == 0
    monkeypatch.setenv("PYTEST_PLAN_KEY", "ab" * 32)
    refuses(
        project.run_apart("--plan-up", "-k", "broken"), "is not sealed with the key of this user"
    )
    monkeypatch.delenv("PYTEST_PLAN_KEY")
