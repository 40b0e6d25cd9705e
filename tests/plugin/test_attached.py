"""Steps that use a server which is there already: it is watched while tests run."""

from __future__ import annotations

from tests.plugin.project import Project


def test_a_server_that_ends_loses_the_step(project: Project) -> None:
    """Its readiness is checked; the message names the variable and has the last answer."""
    project.steps(
        """
        from pytest_plan.steps import http, service

        @pytest.mark.plan_step
        def web(ctx):
            return service(ctx, ["false", "{port}"], ready=http("/"), attach="WEB_URL").url
        """
    )
    project.tests(
        """
        import time

        def test_first(web, server, plan):
            server.kill()
            server.wait()
            until = time.monotonic() + 60
            while plan.results["web"].lost is None:
                assert time.monotonic() < until
                time.sleep(0.1)

        def test_second(web):
            pass
        """
    )
    # The server is started before the plan begins, and belongs to no step.
    project.write(
        "server.py",
        """
        import socket, subprocess, sys, time
        import pytest

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            PORT = probe.getsockname()[1]
        ARGV = [sys.executable, "-m", "http.server", str(PORT), "--bind", "127.0.0.1"]
        SERVER = subprocess.Popen(ARGV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def pytest_configure():
            import os
            os.environ["WEB_URL"] = f"http://127.0.0.1:{PORT}"
            while True:
                try:
                    return socket.create_connection(("127.0.0.1", PORT)).close()
                except OSError:
                    time.sleep(0.05)

        @pytest.fixture
        def server():
            return SERVER
        """,
    )
    result = project.run_apart("-p", "server")
    result.stdout.fnmatch_lines(
        ["plan: web lost at *: check 'WEB_URL' failed: TimeoutError: not ready: http *"]
    )
    result.stdout.fnmatch_lines(["*1 passed, 1 error, 1 blocked*"])
