"""`container` on real engines: Docker and podman."""

from __future__ import annotations

import io
import socket
import urllib.request
from pathlib import Path

import pytest

from pytest_plan import Secret
from pytest_plan.engine.calls.context import Context
from pytest_plan.steps import Container, command, container, healthy, http, log_line, tcp
from tests.steps.containers.conftest import Runner
from tests.steps.containers.engines import IMAGE, SERVER

pytestmark = pytest.mark.engines


def read(url: str | None) -> str:
    """Return what the server at a URL answers."""
    assert url is not None
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


class TestRunning:
    """A container that works."""

    def test_it_serves_on_a_port_of_the_loopback_interface(self, runner: Runner) -> None:
        """Its value has the free port that the engine chose, on 127.0.0.1 alone."""

        def look(value: Container) -> None:
            assert read(value.url) == "hello\n"
            port = value.ports[80]
            url = f"http://127.0.0.1:{port}"
            assert value == Container(value.id, "127.0.0.1", port, {80: port}, url)
            places = runner.client.containers.get(value.id).attrs["NetworkSettings"]["Ports"]
            assert [place["HostIp"] for place in places["80/tcp"]] == ["127.0.0.1"]

        runner.run(lambda ctx: container(ctx, IMAGE, command=SERVER, ports=[80]), look)

    def test_it_serves_on_the_host_of_the_plan(self, runner: Runner) -> None:
        """Its port is published on that address alone."""

        def look(value: Container) -> None:
            assert value.url == f"http://127.0.0.2:{value.port}"
            assert read(value.url) == "hello\n"
            places = runner.client.containers.get(value.id).attrs["NetworkSettings"]["Ports"]
            assert [place["HostIp"] for place in places["80/tcp"]] == ["127.0.0.2"]

        runner.run(
            lambda ctx: container(ctx, IMAGE, command=SERVER, ports=[80]), look, host="127.0.0.2"
        )

    def test_it_gets_its_variables_folders_and_port(self, runner: Runner, tmp_path: Path) -> None:
        """`env`, `volumes` and a port of this machine are those of the container."""
        (tmp_path / "index.html").write_text("mine\n")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]

        def exec(ctx: Context) -> Container:
            serve = ["sh", "-c", "echo name=$NAME count=$COUNT; exec httpd -f -p 80 -h /www"]
            return container(
                ctx, IMAGE, command=serve, ports=[f"{port}:80"],
                env={"NAME": "x y", "COUNT": 3}, volumes={tmp_path: "/www:ro"},
                ready=http("/") & log_line("^name=x y count=3$"),
            )  # fmt: skip

        def look(value: Container) -> None:
            assert value.ports == {80: port}
            assert read(value.url) == "mine\n"

        runner.run(exec, look)

    def test_it_is_awaited_until_its_server_answers(self, runner: Runner) -> None:
        """A proxy of the engine that listens before the server is not taken for the server."""

        def exec(ctx: Context) -> Container:
            return container(ctx, IMAGE, command=SERVER, ports=[80], env={"DELAY": "1"})

        assert runner.run(exec, lambda value: read(value.url)) == "hello\n"

    @pytest.mark.parametrize(
        "ready",
        [
            tcp(80),
            http("/index.html"),
            log_line("^serving$"),
            command(["ls", "/tmp/www/index.html"]),
            lambda value: value.ports[80],
        ],
    )
    def test_each_condition_works(self, runner: Runner, ready: object) -> None:
        """Conditions use the port, the log and the programs of the container."""

        def exec(ctx: Context) -> Container:
            return container(ctx, IMAGE, command=SERVER, ports=[80], ready=ready)  # type: ignore[arg-type]

        runner.run(exec)

    def test_its_labels_tell_where_it_is_from(self, runner: Runner) -> None:
        """The labels of a container have its run, its step and the attempt."""

        def look(value: Container) -> None:
            labels = runner.client.containers.get(value.id).labels
            assert labels["pytest-plan.step"] == runner.name
            assert labels["pytest-plan.attempt"] == "1"
            assert labels["pytest-plan.run"]

        runner.run(lambda ctx: container(ctx, IMAGE, command=SERVER, ports=[80]), look)

    def test_an_attempt_does_not_meet_the_container_of_the_last_one(self, runner: Runner) -> None:
        """The container of a failed attempt is removed before the next attempt begins."""
        seen = []

        def exec(ctx: Context) -> Container:
            filters = {"label": f"pytest-plan.step={ctx.step}"}
            seen.append(len(runner.client.containers.list(all=True, filters=filters)))
            made = container(ctx, IMAGE, command=SERVER, ports=[80])
            if ctx.attempt == 1:
                raise OSError("not yet")
            return made

        runner.run(exec, retries=1, retry_wait=0)
        assert seen == [0, 0]

    def test_what_it_writes_is_in_the_log_while_it_runs(self, runner: Runner) -> None:
        """The step's log gains the lines of the container, with secrets masked."""

        def exec(ctx: Context) -> None:
            write = ["sh", "-c", "echo the password is $PASSWORD; sleep 600"]
            container(ctx, IMAGE, command=write, env={"PASSWORD": Secret("hunter22")})
            log = ctx.artifacts / "log.txt"
            ctx.wait_until(lambda: "the password is ***\n" in log.read_text(), timeout=20)

        runner.run(exec)


class TestHealth:
    """The health check of an image."""

    def image(self, runner: Runner, test: str) -> str:
        """Build an image with a health check, and return its name."""
        tag = f"{IMAGE}-{runner.name}"
        source = (
            f"FROM {IMAGE}\nHEALTHCHECK --interval=1s --retries=2 CMD {test}\n"
            'CMD ["sh", "-c", "sleep 1; touch /tmp/ready; sleep 600"]\n'
        )
        runner.client.images.build(fileobj=io.BytesIO(source.encode()), tag=tag, rm=True)
        return tag

    @pytest.mark.parametrize("ready", [None, healthy()])
    def test_a_container_is_ready_once_it_is_healthy(self, runner: Runner, ready: object) -> None:
        """A health check counts without a condition, and on podman without systemd."""
        image = self.image(runner, "ls /tmp/ready")

        def look(value: Container) -> None:
            found = runner.client.containers.get(value.id)
            assert found.exec_run(["ls", "/tmp/ready"]).exit_code == 0

        try:
            runner.run(lambda ctx: container(ctx, image, ready=ready), look)  # type: ignore[arg-type]
        finally:
            runner.client.images.remove(image, force=True)

    def test_one_that_never_turns_healthy_is_shown_with_its_answer(self, runner: Runner) -> None:
        """The message has what the health check has written last."""
        image = self.image(runner, "ls /tmp/never")
        try:
            message = runner.message(lambda ctx: container(ctx, image, timeout="4s"))
        finally:
            runner.client.images.remove(image, force=True)
        assert message.startswith("not ready after 4s: healthy: ")
        assert message.endswith("ls: /tmp/never: No such file or directory")

    def test_an_image_without_one_is_an_error_at_once(self, runner: Runner) -> None:
        """`healthy` says what to do, instead of waiting for ever."""

        def exec(ctx: Context) -> Container:
            return container(ctx, IMAGE, command=["sleep", "600"], ready=healthy())

        assert runner.message(exec) == (
            f"container {IMAGE!r} has no health check: add HEALTHCHECK to its image, or use "
            "another condition"
        )


class TestFailing:
    """A container that does not work. `runner` checks that nothing is left of it."""

    def test_one_that_ends_early_fails_at_once(self, runner: Runner) -> None:
        """The message has the exit status and the end of its log, which the step's log has, too."""

        def exec(ctx: Context) -> Container:
            fail = ["sh", "-c", "echo bad config; exit 3"]
            return container(ctx, IMAGE, command=fail, ports=[80], timeout="10m")

        failure = runner.failure(exec)
        assert str(failure.__cause__) == (
            f"container {IMAGE!r} exited with status 3 before it was ready; its log ends:\n"
            "bad config"
        )

    def test_one_that_is_removed_by_others_fails_at_once(self, runner: Runner) -> None:
        """The step does not wait for a container that is gone."""

        def exec(ctx: Context) -> Container:
            def ready(value: Container) -> bool:
                runner.client.containers.get(value.id).remove(force=True)
                return False

            return container(ctx, IMAGE, command=SERVER, ports=[80], ready=ready)

        assert runner.message(exec) == f"container {IMAGE!r} was removed before it was ready"

    def test_one_that_is_never_ready_shows_the_last_answer(self, runner: Runner) -> None:
        """The message has the time, the condition, and the answer."""

        def exec(ctx: Context) -> Container:
            ready = http("/missing")
            return container(ctx, IMAGE, command=SERVER, ports=[80], ready=ready, timeout="2s")

        message = runner.message(exec)
        assert message.startswith("not ready after 2s: http http://127.0.0.1:")
        assert message.endswith("/missing: HTTP 404")

    def test_a_port_that_is_taken_is_named_with_who_has_it(self, runner: Runner) -> None:
        """The message has the process, and tells how to let the engine choose a port."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            message = runner.message(
                lambda ctx: container(ctx, IMAGE, command=SERVER, ports=[f"{port}:80"])
            )
        assert message.startswith(f"container {IMAGE!r} cannot be started: ")
        assert (
            f"already listens on port {port}; stop it, or let the engine choose a port" in message
        )
        assert message.endswith("ports=[80]")

    def test_a_command_that_does_not_exist_is_named(self, runner: Runner) -> None:
        """The message has what the engine says about it, on one line."""
        message = runner.message(lambda ctx: container(ctx, IMAGE, command=["nothing-here"]))
        assert message.startswith(f"container {IMAGE!r} cannot be started: ")
        assert "nothing-here" in message
        assert "\n" not in message

    def test_an_image_that_does_not_exist_is_named(self, runner: Runner) -> None:
        """The message has the reason and the cure; nothing was to be undone."""
        image = "127.0.0.1:1/plan-test/missing:9"
        message = runner.message(lambda ctx: container(ctx, image))
        assert message.startswith(f"image {image!r} is not on this machine and cannot be pulled: ")
        assert "connection refused" in message
        assert f"docker build -t {image} ." in message

    def test_the_timeout_of_the_step_holds(self, runner: Runner) -> None:
        """A step that exceeds its timeout has the last answer as the cause, and leaves nothing."""

        def exec(ctx: Context) -> Container:
            return container(ctx, IMAGE, command=["sleep", "600"], ports=[80])

        failure = runner.failure(exec, timeout="8s")
        assert "exceeded its timeout" in str(failure)
        assert "not ready: tcp 127.0.0.1:" in str(failure.__cause__)
