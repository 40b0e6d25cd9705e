"""A shared environment without tests: `--plan-up`, `--plan-status`, `--plan-logs` and so on."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
from pathlib import Path

import pytest

from pytest_plan.steps.servers import redis
from tests.plugin.project import Project, refuses, until
from tests.plugin.sharing_runs import ARGV, STEPS, TESTS, Runs, ended, nothing_left
from tests.sharing.servers import PASSWORD, QUOTED, missing, redis_server

PROGRAM = """
import os, sys, time
print("it begins on localhost", "the-" + "password", flush=True)
while not os.path.exists("more"):
    time.sleep(0.05)
print("there is more", flush=True)
time.sleep(600)
"""
WEB = """
import sys

@pytest.mark.plan_step
def web(ctx, net):
    Secret("the-password")
    ctx.setenv("WEB_NOTE", "it's $HOME")
    ctx.setenv("WEB_SECRET", "the-password")
    ctx.start([sys.executable, "program.py"])
    return f"http://{ctx.host}:80"

@pytest.mark.plan_step(per="worker")
def own(ctx):
    note("own", ctx.worker)

@pytest.mark.plan_step(needs=())
def unused():
    note("unused")
"""
OF_WEB = """
import conftest

def test_web(web, own):
    conftest.held("test")
    assert os.environ["WEB_NOTE"] == "it's $HOME"
"""


def output(folder: Path, *args: str, status: int = 0, share: str = "local") -> str:
    """Run a command in a folder, which may be another than the project's; return its output."""
    result = subprocess.run(
        [*ARGV, *args], cwd=folder, env={**os.environ, "PYTEST_PLAN_SHARE": share},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert result.returncode == status, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout


def test_an_environment_on_a_server_is_up_until_it_is_taken_down(
    runs: Runs, project: Project, tmp_path: Path
) -> None:
    """Other machines see and use it; after `--plan-down` nobody joins, and members are awaited."""
    if why := missing(redis.KIND):
        pytest.skip(why)
    project.steps(STEPS, WEB)
    project.tests(TESTS, OF_WEB)
    project.write("program.py", PROGRAM)
    with redis_server() as server:
        runs.share = ["--plan-environment", "build-7"]
        share = {"PYTEST_PLAN_SHARE": server.url}
        owner = runs("--plan-up", "-k", "web", **share)
        until(owner, "do not see environment variable WEB_SECRET of step 'web', which contains a")
        until(owner, "the shared environment 'build-7' is up")
        assert until(owner, "web ").split() == ["plan:", "web", "succeeded", "http://127.0.0.1:80"]
        assert until(owner, "variables:").split()[2:4] == ["NET,", "WEB_NOTE"]
        down = "pytest -p pytest_plan --plan-down --plan-environment build-7, or Ctrl-C"
        assert down in until(owner, "to end it:")
        until(owner, "'build-7' is not used by any run")

        member = runs.held("test", "-k", "web", **share)
        assert f"(process {member.pid})" in until(owner, "'build-7' is used by")
        (found,) = json.loads(output(tmp_path, "--plan-status", "--plan-json", share=server.url))[
            "environments"
        ]
        me = platform.node()
        assert found["owner"] == f"{me} (process {owner.pid})"
        assert found["members"] == [f"{me} (process {member.pid})"]
        assert (found["name"], found["status"], found["epoch"]) == ("build-7", "open", 1)
        assert [(step["name"], step["outcome"]) for step in found["steps"]] == [
            ("net", "succeeded"),
            ("db", "succeeded"),
            ("web", "succeeded"),
            ("unused", "pending"),
        ]
        following = subprocess.Popen(
            [*ARGV, *runs.share, "--plan-logs", "web", "--plan-follow", "web"],
            stdout=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ, **share},
        )  # fmt: skip
        runs.all.append(following)
        until(following, "it begins on localhost ***")
        (project.path / "more").touch()
        until(following, "there is more")

        ending = runs("--plan-down", **share)
        assert str(member.pid) in until(ending, "the runs that still use 'build-7'")
        late = runs("-k", "two", **share)
        until(late, "waiting: 'build-7' is being cleaned up by another run")
        assert "'build-7' ends: --plan-down was called" in until(owner, "ends:")
        runs.release("test")
        said = [ended(run) for run in (member, owner, ending, late, following)]
        assert "1 passed" in said[0]
        nothing = "nothing is left of the shared environment 'build-7'"
        assert nothing in said[1]
        assert nothing in said[2]
        assert "this run provisions it again" in said[3]
        left = output(tmp_path, "--plan-status", share=server.url)
        assert "plan: there are no shared environments on redis://127.0.0.1" in left
    calls = [call for call in project.calls if "own" not in call]
    calls[2:4] = sorted(calls[2:4])  # these steps do not need each other
    assert calls == ["net", "clean success 0", "net", "unused", "clean success 0"]
    said.append(left)
    assert not any(text in one for text in (PASSWORD, QUOTED, "the-password") for one in said)
    nothing_left(project)


def test_an_environment_ends_when_no_run_has_used_it_for_some_time(
    runs: Runs, project: Project
) -> None:
    """The time begins when it is up, and again when the last member has left."""
    owner = runs.held("step", "--plan-up", "--plan-until-unused", "1s")
    member = runs("-k", "one", HELD="test")
    until(member, "this run waits")
    runs.release("step")
    assert str(member.pid) in until(owner, "'default' is used by")
    runs.release("test")
    until(owner, "'default' is not used by any run; it ends after 1.00s")
    assert "'default' ends: no run has used it for 1.00s" in ended(owner)
    ended(member)
    assert project.calls == ["net", "clean success 10"]
    nothing_left(project)


def test_a_signal_ends_an_environment_that_is_up(runs: Runs, project: Project) -> None:
    """Once it is up, the exit status after a signal says whether it was cleaned up.

    A second `--plan-up` says who is the owner, exports the variables and ends.
    """
    owner = runs("--plan-up", "--plan-until", "net")
    until(owner, "'default' is not used by any run")
    second = output(project.path, "--plan-up", "--plan-until=net", "--plan-export")
    assert second == "export NET=there\n"
    again = output(project.path, "--plan-up", status=1)
    owner_text = f"{platform.node()} (process {owner.pid})"
    assert f"plan: 'default' is up already; its owner is {owner_text}" in again
    assert "plan: not up: db (blocked)" in again
    owner.send_signal(signal.SIGTERM)
    assert "'default' ends: a signal was received" in ended(owner)
    assert project.calls == ["net", "clean cancelled 0"]
    owner = runs.held("step", "--plan-up")
    owner.send_signal(signal.SIGINT)
    ended(owner, 2)
    nothing_left(project)


def test_a_shell_goes_on_once_the_environment_is_up(runs: Runs, project: Project) -> None:
    """After the variables, `--plan-export` ends standard output, although the owner stays."""
    command = " ".join([*ARGV, *runs.share])
    script = f"""
        eval "$({command} --plan-up --plan-export --plan-until net 2>up.txt &)"
        echo "$NET"
        {command} --plan-down -q >down.txt
        """
    shell = subprocess.run(
        ["sh", "-c", script], cwd=project.path, capture_output=True, text=True, timeout=90,
        check=True,
    )  # fmt: skip
    assert shell.stdout == "there\n"
    assert "'default' ends: --plan-down was called" in (project.path / "up.txt").read_text()
    assert project.calls == ["net", "clean success 0"]


def test_what_is_not_up_does_not_stay(runs: Runs, project: Project) -> None:
    """After a failure, the environment is cleaned up at once. Without one, commands succeed."""
    said = ended(runs("--plan-up", BROKEN="yes"), 1)
    assert "plan: not up: db (failed)" in said
    assert project.calls == ["net", "clean failure 0"]
    assert "nothing is left" in ended(runs("--plan-down"))
    assert "there is no shared environment 'x' on this machine" in ended(
        runs("--plan-status", "--plan-environment", "x")
    )


def test_the_end_of_a_lost_environment(runs: Runs, project: Project) -> None:
    """If the owner was killed, `--plan-status` says so, and `--plan-down` cleans up instead."""
    project.steps(
        """
        @pytest.mark.plan_step(cleanup=lambda: note("drop"))
        def host(ctx):
            ctx.log("localhost")
        """
    )
    owner = runs("--plan-up", "--plan-until", "host", "-o", "plan_reaper=false")
    until(owner, "'default' is not used by any run")
    assert output(project.path, "--plan-logs", "host") == "localhost\n"
    owner.kill()
    owner.communicate()
    found = json.loads(output(project.path, "--plan-status", "--plan-json", status=1))
    assert [one["owner_lives"] for one in found["environments"]] == [False]
    said = ended(runs("--plan-down"))
    assert f"cleaning up 'default', which {platform.node()} (process {owner.pid}) has left" in said
    assert project.calls == ["drop"]
    assert "there are no shared environments" in ended(runs("--plan-status"))
    nothing_left(project)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (
            ["--plan-up", "--plan-until-unused", "1s"],
            "only be used with --plan-up and --plan-share",
        ),
        (["--plan-share=local", "--plan-up", "--plan-until", "nett"], "did you mean 'net'"),
        (["--plan-share=local", "--plan-logs", "net"], "no shared environment 'default' on this"),
        (["--plan-share=redis://127.0.0.1:1", "--plan-down"], "--plan-environment NAME"),
        (["--plan-share=redis://127.0.0.1:1", "--plan-status"], "127.0.0.1:1 cannot be used"),
        (["--plan-share=ftp://x", "--plan-logs", "net"], "begins with 'ftp'"),
    ],
)
def test_refused(
    project: Project, args: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot work is one message with the cure."""
    for name in ("GITHUB_RUN_ID", "CI_PIPELINE_ID", "BUILDKITE_BUILD_ID"):
        monkeypatch.delenv(name, raising=False)
    project.steps(STEPS)
    project.tests(TESTS)
    refuses(project.run(*args), text)
    assert project.calls == []
