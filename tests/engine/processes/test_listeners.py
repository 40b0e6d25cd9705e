"""Strangers on ports: a server that answers is the step's own, or the step says that it is not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_plan.engine.calls.context import Context
from pytest_plan.engine.definition.step import GenericStep
from pytest_plan.engine.model.results import StepError
from pytest_plan.engine.plan import Plan
from pytest_plan.engine.processes.identity import identify
from pytest_plan.engine.processes.listeners import addresses_of, foreign_listeners, ports_in

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who listens")

LONGEST = 20.0
SERVER = """
import os, socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])), reuse_port="reuse" in sys.argv)
with open(sys.argv[2] + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(sys.argv[2] + ".new", sys.argv[2])
while True:
    server.accept()[0].close()
"""
CLIENT = """
import socket, sys, time
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
time.sleep(60)
"""
Listen = Callable[[int], int]


def wait_until(done: Callable[[], Any]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + LONGEST
    while not done():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Listen]:
    """Let a process outside the plan, no descendant of ours, listen on a port."""
    pids: list[int] = []

    def listen(port: int) -> int:
        file = tmp_path / f"stranger{len(pids)}"
        script = 'setsid "$@" >/dev/null 2>&1 &'
        server = [sys.executable, "-c", SERVER, str(port), str(file), "reuse"]
        subprocess.run(["sh", "-c", script, "sh", *server], check=True)
        wait_until(file.exists)
        pids.append(int(file.read_text()))
        return pids[-1]

    yield listen
    for pid in pids:
        who = identify(pid)
        who.send_signal(signal.SIGKILL)
        wait_until(lambda who=who: not who.is_alive())  # type: ignore[misc]


@pytest.fixture
def port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def outcome(exec: Callable[[Context], Any]) -> BaseException | None:
    """Run a step; return the exception that it failed with, or None."""
    plan = Plan()
    plan.add_step(GenericStep(exec=exec), name="it")
    try:
        plan.execute()
    except StepError as error:
        return error.__cause__
    return None


def answers(port: int) -> bool:
    """Return whether somebody accepts a connection."""
    socket.create_connection(("127.0.0.1", port)).close()
    return True


@pytest.mark.parametrize(
    ("arguments", "ports"),
    [
        (["5432"], {5432}),
        (["127.0.0.1:5432"], {5432}),
        (["--port=5432"], {5432}),
        (["http://[::1]:5432/path"], {5432}),
        (["-p", "80", ":81"], {80, 81}),
        (["v5432", "5432x", "1.5", "99999", "0", "--port-5432"], set()),
    ],
)
def test_a_port_is_a_word_of_an_argument(arguments: list[str], ports: set[int]) -> None:
    """It is the whole argument, or follows a colon or an equals sign."""
    assert ports_in(arguments) == ports


class TestFixedPort:
    """A stranger listens on a port that is in the arguments of a program."""

    def start(self, ctx: Context, code: str, *arguments: object) -> Any:
        """Start Python code."""
        return ctx.start([sys.executable, "-c", code, *map(str, arguments)])

    @pytest.mark.parametrize("waits", [True, False])
    def test_a_program_that_ends_fails_the_step(
        self, port: int, listen: Listen, waits: bool, tmp_path: Path
    ) -> None:
        """The stranger has answered, and the error names it."""
        stranger = listen(port)

        def exec(ctx: Context) -> None:
            self.start(ctx, SERVER, port, tmp_path / "own")
            if waits:
                ctx.wait_until(lambda: answers(port), timeout=LONGEST)

        error = outcome(exec)
        assert isinstance(error, RuntimeError)
        assert f"(pid {stranger}) already listens on port {port}" in str(error)
        assert "exited with status 1" in str(error)

    def test_a_program_that_listens_itself_is_not_mistaken(
        self, port: int, listen: Listen, tmp_path: Path
    ) -> None:
        """Two processes may share a port."""
        listen(port)

        def exec(ctx: Context) -> Any:
            self.start(ctx, SERVER, port, tmp_path / "own", "reuse")
            return ctx.wait_until(lambda: answers(port), timeout=LONGEST)

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert outcome(exec) is None
        assert (tmp_path / "own").exists()

    def test_a_program_may_be_a_client(self, port: int, listen: Listen) -> None:
        """It is connected to a server outside the plan."""
        listen(port)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert outcome(lambda ctx: self.start(ctx, CLIENT, port) and None) is None

    def test_a_warning_names_a_stranger_after_a_while(self, port: int, listen: Listen) -> None:
        """A program may have the number in its arguments for another reason."""
        stranger = listen(port)
        code = "import time; time.sleep(60)"

        def exec(ctx: Context) -> Any:
            self.start(ctx, code, port)
            return ctx.wait_until(lambda: answers(port), timeout=LONGEST)

        begun = time.monotonic()
        with pytest.warns(RuntimeWarning, match=rf"\(pid {stranger}\) already listens on port"):
            assert outcome(exec) is None
        assert time.monotonic() - begun >= 2

    def test_programs_of_the_plan_are_no_strangers(self, port: int, tmp_path: Path) -> None:
        """A program may be given the port of another one, or of this process."""
        with socket.create_server(("127.0.0.1", 0)) as ours, warnings.catch_warnings():
            warnings.simplefilter("error")

            def exec(ctx: Context) -> None:
                self.start(ctx, SERVER, port, tmp_path / "own")
                ctx.wait_until(lambda: answers(port), timeout=LONGEST)
                code = "import time; time.sleep(60)"
                self.start(ctx, code, port, f"localhost:{ours.getsockname()[1]}")

            begun = time.monotonic()
            assert outcome(exec) is None
        assert time.monotonic() - begun < LONGEST

    def test_a_program_that_is_meant_to_end_is_not_delayed(self, port: int, listen: Listen) -> None:
        """It is no server."""
        listen(port)
        argv = ["sh", "-c", "exit 0", str(port)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert outcome(lambda ctx: repr(ctx.start(argv, watch=False))) is None
            assert outcome(lambda ctx: ctx.run(argv).stdout) is None

    @pytest.mark.parametrize("lives", [True, False])
    def test_a_daemon_of_run_is_held_to_it(self, port: int, listen: Listen, lives: bool) -> None:
        """A daemon that does not listen is reported, as a program of `ctx.start` is."""
        stranger = listen(port)
        code = f'setsid sh -c "exec sleep {60 if lives else 0.3}" >/dev/null 2>&1 &'

        def exec(ctx: Context) -> Any:
            ctx.run(["sh", "-c", code, str(port)])
            return ctx.wait_until(lambda: answers(port), timeout=LONGEST)

        if lives:
            with pytest.warns(RuntimeWarning, match=rf"\(pid {stranger}\) already listens on"):
                assert outcome(exec) is None
        else:
            error = outcome(exec)
            assert isinstance(error, RuntimeError)
            assert f"(pid {stranger}) already listens on port {port}" in str(error)


class TestFreePort:
    """A stranger listens on a port of `ctx.free_port`."""

    @pytest.mark.parametrize("is_argument", [True, False])
    def test_the_program_is_not_started(self, listen: Listen, is_argument: bool) -> None:
        """The step fails at once, also if the port is only in a file of the program."""
        ports: list[int] = []

        def exec(ctx: Context) -> None:
            ports.append(ctx.free_port())
            listen(ports[0])
            ctx.start(["sleep", "60", str(ports[0]) if is_argument else "1"])

        error = outcome(exec)
        assert isinstance(error, RuntimeError)
        assert f"already listens on port {ports[0]}, which step 'it' took as a free port" in str(
            error
        )

    def test_a_listener_that_comes_later_is_the_steps(self, listen: Listen) -> None:
        """A container's proxy or a tunnel listens after the step's program has begun."""

        def exec(ctx: Context) -> Any:
            port = ctx.free_port()
            ctx.run(["true"])
            listen(port)
            ctx.start([sys.executable, "-c", CLIENT, str(port)])
            return ctx.wait_until(lambda: answers(port), timeout=LONGEST)

        assert outcome(exec) is None

    @pytest.mark.parametrize("form", ["{}", "-p {} -k /tmp", "localhost:{}", "--port={}"])
    def test_a_program_of_run_is_not_started(self, listen: Listen, form: str) -> None:
        """A program that would leave a server running cannot listen on the port."""
        ports: list[int] = []

        def exec(ctx: Context) -> None:
            ports.append(ctx.free_port())
            listen(ports[0])
            ctx.run(["touch", str(ctx.artifacts / "ran"), form.format(ports[0])])

        error = outcome(exec)
        assert isinstance(error, RuntimeError)
        text = f"already listens on port {ports[0]}, which step 'it' took as a free port"
        assert text in str(error)
        assert str(error).endswith("'touch' was not started")

    def test_a_program_of_run_may_have_nothing_to_do_with_it(self, listen: Listen) -> None:
        """A service that the step has asked may listen already, such as a container's proxy."""

        def exec(ctx: Context) -> Any:
            listen(ctx.free_port())
            return ctx.run(["true"]).stdout

        assert outcome(exec) is None

    def test_a_cleanup_is_not_refused(self, listen: Listen) -> None:
        """It may talk to whatever listens on the port."""

        def exec(ctx: Context) -> None:
            port = ctx.free_port()
            listen(port)
            ctx.defer(ctx.run, ["true", str(port)])

        assert outcome(exec) is None

    def test_a_server_in_this_process_is_no_stranger(self) -> None:
        """A step may serve the port itself."""

        def exec(ctx: Context) -> None:
            with socket.create_server(("127.0.0.1", ctx.free_port())):
                ctx.start(["sleep", "60"])

        assert outcome(exec) is None


def test_addresses_are_those_on_which_processes_listen(tmp_path: Path) -> None:
    """TCP over IPv4 and IPv6, then Unix sockets; connected or bound sockets do not count."""
    path = tmp_path / "a socket"
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as second,
        socket.create_connection(first.getsockname()),
        socket.socket() as bound,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as silent,
    ):
        bound.bind(("127.0.0.1", 0))
        unix.bind(str(path))
        unix.listen()
        silent.bind(str(tmp_path / "silent"))
        ours = addresses_of([os.getpid()])
        assert {f"127.0.0.1:{first.getsockname()[1]}", f"[::1]:{second.getsockname()[1]}"} <= {
            *ours
        }
        assert ours[-1] == str(path)
        assert not any(str(bound.getsockname()[1]) in one for one in ours)
        assert str(tmp_path / "silent") not in ours
    assert not {*addresses_of([os.getpid()])} & {*ours}


class TestForeignListeners:
    """`foreign_listeners`: who answers in place of a tree."""

    @pytest.fixture
    def port(self) -> Iterator[int]:
        """A port on which this process listens."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server.getsockname()[1]

    def test_another_process_is_found(self, port: int) -> None:
        """The error of a step names it."""
        (found,) = foreign_listeners([port], list, lambda pid: False)
        assert found.as_answer() == (
            f"port {port} is answered by process {os.getpid()} "
            f"({psutil.Process().name()}), which is not of this step"
        )

    def test_a_process_of_the_tree_is_none(self, port: int) -> None:
        """It is recognized as a member, or by its marks."""
        assert foreign_listeners([port], lambda: [os.getpid()], lambda pid: False) == []
        assert foreign_listeners([port], list, lambda pid: pid == os.getpid()) == []

    def test_one_that_cannot_be_told_apart_for_a_moment_is_none(self, port: int) -> None:
        """A daemon gets its socket from a parent that ends just then."""
        looks = iter([False, True])
        assert foreign_listeners([port], list, lambda pid: next(looks)) == []

    def test_a_port_on_which_nobody_listens_has_none(self) -> None:
        """Then the tree is not even looked at."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        assert foreign_listeners([port], lambda: pytest.fail("looked"), lambda pid: False) == []

    def test_a_listener_on_another_address_does_not_answer(self) -> None:
        """It may have the same port."""
        with socket.create_server(("127.0.0.2", 0)) as server:
            port = server.getsockname()[1]
            assert foreign_listeners([port], list, lambda pid: False) == []

    def test_one_on_the_address_of_the_plan_answers(self) -> None:
        """So does one on all addresses, but not one on the same port of loopback."""
        with socket.create_server(("127.0.0.2", 0)) as server:
            port = server.getsockname()[1]
            (found,) = foreign_listeners([port], list, lambda pid: False, "127.0.0.2")
            assert found.pid == os.getpid()
            assert foreign_listeners([port], list, lambda pid: False, "10.99.99.99") == []
        with socket.create_server(("", 0)) as server:
            port = server.getsockname()[1]
            assert foreign_listeners([port], list, lambda pid: False, "10.99.99.99") != []
