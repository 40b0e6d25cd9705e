"""What all steps with servers promise, on the real servers."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_plan import Context, Plan, StepError
from tests.plugin.project import Project
from tests.steps.servers.kinds import (
    SERVERS,
    Server,
    addresses_at,
    processes_at,
    program_or_skip,
)

pytestmark = pytest.mark.engines

GONE = 30.0  # seconds within which the reaper must have ended a server
MARK = "PLAN_TEST_OF_SERVERS"


@pytest.fixture(params=list(SERVERS))
def server(request: pytest.FixtureRequest) -> Server:
    """A server that is installed."""
    found = SERVERS[request.param]
    program_or_skip(found.kind)
    return found


def failure(step: Any) -> str:
    """Run a step that fails; return the message of its error."""
    plan = Plan()
    plan.add_step(step, name="it")
    with pytest.raises(StepError) as caught, plan.provisioned():
        pass
    return str(caught.value.__cause__ or caught.value)


def test_a_client_can_use_the_value_until_cleanup(server: Server) -> None:
    """Afterwards nothing listens there."""
    plan = Plan()
    plan.add_step(server.step(), name="it")
    with plan.provisioned() as state:
        value = state["it"]
        assert re.fullmatch(server.value, value)
        server.use(value)
        server.step().alive(value)
        assert processes_at(value)
    assert not processes_at(value)
    with pytest.raises(Exception, match="Connection refused"):
        server.step().alive(value)


# PostgreSQL and Redis: tests/steps/test_host.py.
@pytest.mark.parametrize("server", ["MariaDB", "RabbitMQ", "Kafka", "S3"], indirect=True)
def test_it_listens_on_the_host_of_the_plan_only(server: Server) -> None:
    """Its value has that address, and a client can use it."""
    plan = Plan(host="127.0.0.2")
    plan.add_step(server.step(), name="it")
    with plan.provisioned() as state:
        value = state["it"]
        assert re.fullmatch(server.value.replace(r"127\.0\.0\.1", r"127\.0\.0\.2"), value)
        server.use(value)
        server.step().alive(value)
        assert addresses_at(value) == {"127.0.0.2"}


def test_a_kept_server_is_reused_until_it_has_died(server: Server, project: Project) -> None:
    """Then a run provisions another one."""
    project.steps(
        f"from pytest_plan.steps import {server.step.__name__}",
        f"@pytest.mark.plan_step\nclass it({server.step.__name__}): pass",
    )
    project.tests("def test_it(it): note(it)")
    assert project.run_apart("--plan-keep", "always").ret == 0
    assert project.run_apart("--plan-reuse").ret == 0
    first, second = project.calls
    assert first == second
    for process in processes_at(first):
        process.kill()
        process.wait(10)
    assert project.run_apart("--plan-reuse").ret == 0
    third = project.calls[-1]
    assert third != first
    assert processes_at(third)
    assert project.run_apart("--plan-cleanup").ret == 0
    assert not processes_at(third)


def test_nothing_is_left_after_sigkill(server: Server, project: Project) -> None:
    """The reaper ends all processes of a server whose pytest was killed."""
    project.steps(
        f"from pytest_plan.steps import {server.step.__name__}",
        f"@pytest.mark.plan_step\nclass it({server.step.__name__}): pass",
    )
    project.tests("import signal\ndef test_it(it): note(it); os.kill(os.getpid(), signal.SIGKILL)")
    mark = f"{os.getpid()}-{id(project)}"
    command = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-q"]
    environment = {**os.environ, MARK: mark}
    done = subprocess.run(command, cwd=project.path, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    (value,) = project.calls
    deadline = time.monotonic() + GONE
    while (left := _marked(mark) or processes_at(value)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_test_can_stop_and_start_a_server(server: Server, project: Project) -> None:
    """It answers at the same place, and is lost if it dies on its own."""
    name = server.step.__name__
    project.steps(
        f"from pytest_plan.steps import {name}", f"@pytest.mark.plan_step\nclass it({name}): pass"
    )
    project.tests(
        f"""
        import os
        import select
        import time
        from tests.steps.servers.kinds import SERVERS, processes_at

        def test_it(plan, it):
            server = SERVERS[{name!r}]
            program = plan.program("it")
            for end in (program.stop, program.kill):
                end()
                assert not processes_at(it)
                program.start()
                server.step().alive(it)
            server.use(it)

        def test_dies(it):
            for process in processes_at(it):
                ended = os.pidfd_open(process.pid)  # psutil's wait would take the exit status
                process.kill()
                select.select([ended], [], [], 10)
                os.close(ended)

        @pytest.mark.parametrize("n", range(100))
        def test_comes_later(it, n):
            time.sleep(0.1)  # until the loss has been noticed
        """
    )
    result = project.run_apart()
    result.stdout.fnmatch_lines(["plan: it lost at *", "*1 error, * blocked in *"])


def test_another_process_may_take_the_port_first(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is then started on another one."""
    taken: list[socket.socket] = []
    free_port = Context.free_port

    def first_is_taken(ctx: Context) -> int:
        port = free_port(ctx)
        if not taken:
            taken.append(socket.create_server(("127.0.0.1", port)))
        return port

    monkeypatch.setattr(Context, "free_port", first_is_taken)
    plan = Plan()
    plan.add_step(server.step(), name="it")
    with plan.provisioned() as state:
        assert str(taken[0].getsockname()[1]) not in state["it"]
        server.use(state["it"])
    taken[0].close()


@pytest.mark.parametrize("name", [name for name, server in SERVERS.items() if server.bad])
def test_a_bad_setting_is_one_message_with_its_cause(name: str) -> None:
    """The step fails as soon as the server has ended."""
    server = SERVERS[name]
    program_or_skip(server.kind)
    message = failure(server.step(**server.bad))
    assert f"{server.kind.program!r} exited with status" in message
    assert server.cause in message


def test_a_folder_without_the_program_is_one_message(server: Server, tmp_path: Path) -> None:
    """It names the folder and the program."""
    message = failure(server.step(bin=tmp_path))
    program = f"there is no program {server.kind.program!r}"
    assert message.startswith(
        f"no {server.kind.title}: bin is {os.fspath(tmp_path)!r}, where {program}"
    )


def test_a_program_that_is_not_installed_is_one_message(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how to install it."""
    monkeypatch.setenv("PATH", "/nowhere")
    module = sys.modules[server.step._start.__module__]
    monkeypatch.setattr(module, "KIND", server.kind._replace(folders=(), packages={}))
    message = failure(server.step())
    assert message == (
        f"no {server.kind.title} is installed: found none; install it ({server.kind.install}), "
        f"or set bin to the folder with {server.kind.program!r}"
    )


def test_a_server_that_is_there_already_is_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step starts nothing, and cleanup leaves the server alone."""
    plan = Plan()
    plan.add_step(server.step(), name="it")
    with plan.provisioned() as state:
        monkeypatch.setenv("THE_SERVER", state["it"])
        other = Plan()
        other.add_step(server.step(attach="THE_SERVER", bin="/nowhere"), name="other")
        with other.provisioned() as found:
            assert found["other"] == state["it"]
        server.use(state["it"])


def test_a_server_that_does_not_answer_is_refused_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the variable."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scheme, has_scheme, _ = server.value.rpartition("://")
    monkeypatch.setenv("THE_SERVER", f"{scheme}{has_scheme}127.0.0.1:{port}")
    message = failure(server.step(attach="THE_SERVER"))
    assert message.startswith("the server that THE_SERVER names does not answer: tcp 127.0.0.1:")
