"""The function `service`."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest

from pytest_plan import Context, PlanDefinitionError
from pytest_plan.engine.journal.codec import Codec
from pytest_plan.engine.journal.reference import References
from pytest_plan.steps import Service, http, log_line, service, tcp
from tests.steps.running import LONGEST, SERVE, Exec, cause_of, log_of, run

CHILD = """
import subprocess, sys
subprocess.Popen([sys.executable, "-m", "http.server", sys.argv[1], "--bind", "127.0.0.1"]).wait()
"""


def answers(url: str) -> int:
    """Return the status of a server's answer."""
    with urlopen(url) as response:
        return int(response.status)


def test_the_service_answers_while_the_plan_is_provisioned() -> None:
    """Its value says where; afterwards it has ended."""

    def look(web: Service) -> Service:
        assert answers(web.url or "") == 200
        return web

    web = run(lambda ctx: service(ctx, [*SERVE, "{port}"], ready=http("/")), look)
    assert web == Service("127.0.0.1", web.port, {"port": web.port}, web.url, web.pid)
    assert web.url == f"http://127.0.0.1:{web.port}"
    assert not psutil.pid_exists(web.pid)


def test_by_default_each_port_must_accept_connections() -> None:
    """The program here opens its second port late."""
    code = (
        "import socket, sys, time\n"
        "first = socket.create_server((sys.argv[1], int(sys.argv[2])))\n"
        "time.sleep(0.5)\n"
        "second = socket.create_server((sys.argv[1], int(sys.argv[3])))\n"
        "time.sleep(60)\n"
    )
    argv = [sys.executable, "-c", code, "{host}", "{port}", "{port:admin}"]

    def look(found: Service) -> list[int]:
        assert list(found.ports) == ["port", "admin"]
        for port in found.ports.values():
            socket.create_connection((found.host, port)).close()
        return list(found.ports.values())

    assert len(set(run(lambda ctx: service(ctx, argv), look))) == 2


def test_placeholders_are_replaced_in_arguments_and_environment() -> None:
    """Other braces stay as they are, and one name is one port."""
    argv = ["sh", "-c", 'echo "$0 $A"; exec sleep 60', "--at={host}:{port},{port:b},{portable},{}"]
    env = {"A": "{port:b} {port} {x:port} ${HOME} {{port}}", "B": None}

    def exec(ctx: Context) -> list[Any]:
        found = service(ctx, argv, env=env, ready=log_line("--at"))
        ctx.log("seen")
        return [found.ports, ctx.artifacts.joinpath("log.txt").read_text()]

    ports, log = run(exec)
    a, b = ports["port"], ports["b"]
    line = f"--at=127.0.0.1:{a},{b},{{portable}},{{}} {b} {a} {{x:port}} ${{HOME}} {{{a}}}"
    assert line in log.splitlines()


def test_the_echo_of_the_command_is_no_line_of_the_program() -> None:
    """Only what the program writes is searched, and only what this start of it writes."""
    argv = ["sh", "-c", "sleep 0.3; echo up; exec sleep 60 # ready"]
    error = cause_of(lambda ctx: service(ctx, argv, ready=log_line("ready"), timeout="1s"))
    assert str(error) == (
        "not ready after 1s: log_line 'ready': no such line; the last one is 'up'"
    )

    def twice(ctx: Context) -> float:
        service(ctx, argv, ready=log_line("up"))
        begun = time.monotonic()
        service(ctx, argv, ready=log_line("up"))
        return time.monotonic() - begun

    assert run(twice) > 0.25


def test_an_answer_that_is_not_good_yet_is_waited_for() -> None:
    """The server here answers 503 three times."""
    argv = [*SERVE, "{port}", "3"]
    assert run(lambda ctx: service(ctx, argv, ready=http("/health"))).port


def test_a_program_that_never_answers_is_a_timeout_with_the_last_answer() -> None:
    """The step's own timeout holds if the call has none."""
    argv = [*SERVE, "{port}", "1000000"]
    error = cause_of(lambda ctx: service(ctx, argv, ready=http("/health"), timeout="1s"))
    where = r"http http://127\.0\.0\.1:\d+/health: HTTP 503"
    assert re.fullmatch(f"not ready after 1s: {where}", str(error))
    error = cause_of(lambda ctx: service(ctx, argv, ready=http("/health")), timeout="1s")
    assert re.fullmatch(f"not ready: {where}", str(error))


def test_a_program_that_ends_fails_the_step_at_once() -> None:
    """The error has its status, and the log its last lines."""
    argv = ["sh", "-c", "echo bad config >&2; exit 1", "{port}"]
    begun = time.monotonic()
    error = cause_of(lambda ctx: service(ctx, argv, timeout="60s"))
    assert time.monotonic() - begun < LONGEST
    assert str(error) == "'sh' exited with status 1 during startup of step 'it'"
    assert "bad config" in log_of(lambda ctx: service(ctx, argv, timeout="60s"))


def test_a_child_may_be_the_listener() -> None:
    """The whole tree counts as the program."""
    argv = [sys.executable, "-c", CHILD, "{port}"]
    assert run(lambda ctx: service(ctx, argv), lambda web: answers(web.url)) == 200


@pytest.mark.parametrize(
    "ready", [lambda port: tcp(port), lambda port: http(f"http://localhost:{port}/")]
)
def test_another_process_that_answers_is_named(ready: Any) -> None:
    """A fixed port that a stranger has is an error at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        argv = ["sleep", "60"]
        # This process is the stranger, because it listens without having been started by a step.
        error = cause_of(lambda ctx: service(ctx, argv, ready=ready(port), timeout="60s"))
    assert str(error) == (
        f"port {port} is answered by process {psutil.Process().pid} "
        f"({psutil.Process().name()}), which is not of this step"
    )


class Thief(threading.Thread):
    """Takes the port of a program before the program does, a certain number of times."""

    def __init__(self, folder: Path, most: int) -> None:
        super().__init__(name="thief")
        self.folder = folder
        self.most = most
        self.taken: list[socket.socket] = []
        self.seen: list[int] = []
        self.is_over = False

    def run(self) -> None:
        """Take ports, and let each program go on."""
        while not self.is_over:
            for wanted in self.folder.glob("wanted-*"):
                port = int(wanted.name.partition("-")[2])
                if port not in self.seen:
                    self.seen.append(port)
                    if len(self.taken) < self.most:
                        self.taken.append(socket.create_server(("127.0.0.1", port)))
                    (self.folder / f"go-{port}").touch()
            time.sleep(0.01)
        for one in self.taken:
            one.close()


# Asks for its port in a file, and binds when it may.
ASKS = """
import pathlib, socket, sys, time
port, folder = sys.argv[1], pathlib.Path(sys.argv[2])
(folder / f"wanted-{port}").touch()
while not (folder / f"go-{port}").exists():
    time.sleep(0.01)
if sys.argv[3] == "hangs":
    time.sleep(60)
with socket.create_server(("127.0.0.1", int(port))):
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which a program and a thief meet."""
    return tmp_path


def with_thief(folder: Path, most: int, mode: str, of: Callable[[Exec], Any]) -> tuple[Any, Thief]:
    """Run a service from which a thief takes ports; return what `of` returns, and the thief."""
    thief = Thief(folder, most)
    thief.start()
    argv = [sys.executable, "-c", ASKS, "{port}", str(folder), mode]
    try:
        return of(lambda ctx: service(ctx, argv, timeout="60s")), thief
    finally:
        thief.is_over = True
        thief.join()


@pytest.mark.parametrize("mode", ["binds", "hangs"])
def test_a_port_that_another_process_takes_first_is_replaced(folder: Path, mode: str) -> None:
    """The program is started with another port within one attempt, and nothing of it is left."""
    most = 2 if mode == "binds" else 3
    if mode == "binds":
        found, thief = with_thief(folder, most, mode, run)
        assert [found.port] == thief.seen[2:]
        return
    error, thief = with_thief(folder, most, mode, cause_of)
    assert len(thief.seen) == 3
    assert re.fullmatch(
        rf"port {thief.seen[2]} is answered by process \d+ \([\w.]+\), which is not of this step",
        str(error),
    )


def test_three_lost_ports_are_the_end() -> None:
    """The program says that its address is in use, and is started three times."""
    argv = ["sh", "-c", "echo start; echo bind: Address already in use; exit 98", "{port}"]
    log = log_of(lambda ctx: service(ctx, argv))
    assert log.count("start\n") == 3
    error = cause_of(lambda ctx: service(ctx, argv))
    assert str(error) == (
        "'sh' exited with status 98 during startup of step 'it': Address already in use"
    )


def test_a_fixed_port_in_use_is_tried_once() -> None:
    """Another start would have the same port."""
    argv = ["sh", "-c", "echo start; echo bind: Address already in use; exit 98"]
    log = log_of(lambda ctx: service(ctx, argv, ready=tcp(1)))
    assert log.count("start\n") == 1


def test_a_function_may_take_the_service() -> None:
    """Clients of databases can ask then."""
    seen: list[Service] = []

    def ready(found: Service) -> bool:
        seen.append(found)
        return answers(f"{found.url}/x") == 200

    assert run(lambda ctx: service(ctx, [*SERVE, "{port}"], ready=tcp() & ready)) == seen[0]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"argv": "server {port}"}, "argv must be a list"),
        ({"argv": []}, "argv must be a list"),
        (
            {"argv": ["s", "{Port}"]},
            "unknown placeholder {Port} in '{Port}'; use {port}, {port:NAME}",
        ),
        ({"argv": ["s", "-p{port: a}"]}, "unknown placeholder {port: a}"),
        ({"argv": ["s"], "env": {"A": "{hosts}"}}, "unknown placeholder {hosts}"),
        ({"argv": ["s", "{port}", "{port:port}"]}, "are two names of one port; use only {port}"),
        ({"argv": ["s", "{port}"], "ready": "/health"}, "ready: '/health' is not a condition"),
        ({"argv": ["s"], "ready": None}, "nothing shows that 's' is ready; use {port}"),
        ({"argv": ["s"], "ready": http("/")}, "use {port} in the arguments"),
        ({"argv": ["s", "{port}"], "ready": tcp("a")}, "no port named 'a'; its ports: 'port'"),
        (
            {"argv": ["s", "{port}"], "timeout": "soon"},
            "service: timeout: 'soon' is not a duration",
        ),
        ({"argv": ["s", "{port}"], "timeout": 0}, "service: timeout: 0 is zero"),
        ({"argv": ["s", "{port}"], "env": {"A": 5}}, "the variable 'A' of env is 5; use text"),
    ],
)
def test_junk_is_refused_before_anything_runs(arguments: dict[str, Any], text: str) -> None:
    """One error says what is wrong; no program of that name exists, so none was started."""
    error = cause_of(lambda ctx: service(ctx, **arguments))
    assert isinstance(error, PlanDefinitionError | TypeError)
    assert text in str(error)


def test_the_value_is_plain_data() -> None:
    """It is frozen, can be pickled, and can be written to a journal and read again."""
    value = Service("127.0.0.1", 80, {"port": 80}, "http://127.0.0.1:80", 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.port = 81  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(value)) == value
    codec = Codec(References(Path.cwd()))
    assert codec.build(codec.decode(codec.encode(value))) == value


def test_it_can_run_as_another_user_in_another_folder() -> None:
    """As the programs of `ctx.start`."""
    if os.geteuid() != 0:
        pytest.skip("only root can run programs as another user")
    argv = ["sh", "-c", "id -un; pwd; exec sleep 60"]

    def exec(ctx: Context) -> str:
        ready = log_line("^nobody$") & log_line(f"^{ctx.tmp_path}$")
        service(ctx, argv, ready=ready, user="nobody", cwd=ctx.tmp_path)
        return "ready"

    assert run(exec) == "ready"
