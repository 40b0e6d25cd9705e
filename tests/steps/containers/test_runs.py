"""Whole runs of pytest with containers: kills, reuse, and containers that die during tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_plan.engine.model.clock import SystemClock
from tests.plugin.project import Project, plan_lines
from tests.steps.containers.engines import IMAGE, SERVER, address_of, client_of, what_is_there

pytestmark = pytest.mark.engines

LONGEST = 60.0  # real seconds until a test that waits gives up
STEPS = f"""
    from pytest_plan.steps import ComposeStep, ContainerStep, compose, container

    FILE = os.path.join(os.path.dirname(__file__), "compose.yml")
    IMAGE, SERVER = {IMAGE!r}, {SERVER!r}

    def step(**options):
        return pytest.mark.plan_step(timeout="60s", needs=(), **options)
"""
COMPOSE = f"""
services:
  web:
    image: {IMAGE}
    command: [sleep, "600"]
    volumes: ["data:/data"]
volumes:
  data: {{}}
"""


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of the engine that the runs inside the test use."""
    address = address_of(request.param)
    monkeypatch.setenv("DOCKER_HOST", address)
    with client_of(address) as client:
        yield client


def ids(project: Project) -> list[str]:
    """Return the ids of runs that tests have noted."""
    return [line.split()[1] for line in project.calls if line.startswith("id ")]


def wait_until(is_done: Callable[[], object]) -> None:
    """Wait for something that another process does."""
    deadline = SystemClock.now() + LONGEST
    while not is_done():
        assert SystemClock.now() < deadline
        SystemClock.sleep(0.1)


def run_id(project: Project) -> str:
    """Return the id of the only run."""
    (folder,) = (project.path / ".pytest_plan" / "artifacts").iterdir()
    return folder.name


class TestKilled:
    """A run that SIGKILL ends."""

    @pytest.mark.parametrize("moment", ["in a test", "in a step"])
    def test_it_leaves_no_container_network_or_volume(
        self, project: Project, engine: Any, moment: str
    ) -> None:
        """The reaper removes them, also those of a step that was still waiting for them."""
        project.write("compose.yml", COMPOSE)
        project.steps(
            STEPS,
            """
            def kill():
                os.kill(os.getpid(), 9)

            @step()
            def single(ctx): return container(ctx, IMAGE, command=SERVER, ports=[80])

            @step()
            def stack(ctx): return compose(ctx, FILE)

            @pytest.mark.plan_step(timeout="60s", needs=["single", "stack"])
            def last(ctx):
                if os.environ["MOMENT"] == "in a step":
                    container(ctx, IMAGE, command=SERVER, ready=kill)
        """,
        )
        project.tests("""
            from conftest import kill

            def test_it(last): kill()
        """)
        argv = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-q"]
        env = {**os.environ, "MOMENT": moment}
        done = subprocess.run(argv, cwd=project.path, env=env, check=False)
        assert done.returncode == -signal.SIGKILL
        name = f"plan-{run_id(project)}-"
        assert what_is_there(engine, name)
        wait_until(lambda: not what_is_there(engine, name))
        wait_until(lambda: not list(project.path.glob(".pytest_plan/environments/run-*")))

    def test_a_program_that_an_undo_starts_finds_its_variables(
        self, project: Project, engine: Any
    ) -> None:
        """docker-compose, which is written for another Python, works in the reaper, too."""
        project.write("compose.yml", COMPOSE)
        project.steps(
            STEPS,
            """
            import subprocess

            def down(name):
                assert os.environ["OWN"] == "mine"
                argv = ["docker-compose", "-p", name, "-f", FILE, "down", "-v", "-t", "0"]
                subprocess.run(argv, check=True)

            @step()
            def own(ctx):
                name = f"own{os.getpid()}"
                ctx.setenv("OWN", "mine")
                ctx.defer(down, name)
                ctx.run(["docker-compose", "-p", name, "-f", FILE, "up", "-d"])
                note(name)
        """,
        )
        project.tests("def test_it(own): os.kill(os.getpid(), 9)")
        argv = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "-q"]
        done = subprocess.run(argv, cwd=project.path, check=False)
        assert done.returncode == -signal.SIGKILL
        (name,) = project.calls
        assert what_is_there(engine, name)
        wait_until(lambda: not what_is_there(engine, name))


class TestReuse:
    """A run that continues with the containers of an earlier one."""

    def run(self, project: Project, *args: str) -> list[str]:
        """Run pytest with `--plan-reuse`, and return the live lines of the plan."""
        result = project.run("--plan-reuse", *args)
        assert result.ret == 0
        return plan_lines(result)

    def test_it_notices_containers_that_have_died(self, project: Project, engine: Any) -> None:
        """A step is rebuilt if its container has ended, however it was declared."""
        project.write("compose.yml", COMPOSE)
        project.steps(
            STEPS,
            """
            @step()
            class web(ContainerStep):
                image, command, ports = IMAGE, SERVER, [80]

            @step()
            class stack(ComposeStep):
                files = FILE

            @step()
            def url(ctx): return container(ctx, IMAGE, command=SERVER, ports=[80]).url
        """,
        )
        project.tests("""
            def test_it(web, stack, url):
                note("id", web.id)
                note("id", stack["web"].id)
        """)
        try:
            self.run(project)
            lines = self.run(project)
            for name in ("web", "stack", "url"):
                assert [line for line in lines if re.match(rf"plan: {name} +reused .*alive", line)]
            first = ids(project)
            assert first[:2] == first[2:]
            filters = {"label": "pytest-plan.step=url", "name": "plan-"}
            mine = [
                one
                for one in engine.containers.list(filters=filters)
                if one.labels["pytest-plan.run"] in engine.containers.get(first[0]).name
            ]
            for one in (engine.containers.get(first[0]), *mine):
                one.kill()
            engine.containers.get(first[1]).remove(force=True)
            lines = self.run(project)
            ended = f"container {IMAGE!r} exited with status 137"
            assert f"plan: web is rebuilt: {ended}" in lines
            assert f"plan: url is rebuilt: {ended}" in lines
            assert "plan: stack is rebuilt: service 'web' was removed" in lines
            assert not {*ids(project)[4:]} & {*first}
        finally:
            project.run("--plan-cleanup")
        assert [engine.containers.list(all=True, filters={"id": one}) for one in ids(project)] == [
            [] for _ in ids(project)
        ]

    def test_a_change_of_an_attribute_is_noticed(self, project: Project, engine: Any) -> None:
        """The attributes of a class belong to its fingerprint."""
        source = """
            @step()
            class web(ContainerStep):
                image, command, env = IMAGE, SERVER, {"NUMBER": 1}
        """
        project.tests("def test_it(web): note('id', web.id)")
        try:
            project.steps(STEPS, source)
            self.run(project)
            project.steps(STEPS, source.replace("1}", "2}"))
            assert any(line.startswith("plan: web is rebuilt:") for line in self.run(project))
            assert len({*ids(project)}) == 2
        finally:
            project.run("--plan-cleanup")


class TestLost:
    """A container that ends while tests run."""

    @pytest.mark.parametrize("reused", [False, True])
    def test_its_step_is_lost_at_once(self, project: Project, engine: Any, reused: bool) -> None:
        """Tests that need it are blocked, also in a run that reuses the container."""
        project.steps(
            STEPS,
            """
            @step()
            def web(ctx): return container(ctx, IMAGE, command=SERVER, ports=[80])
        """,
        )
        project.tests("""
            import docker

            @pytest.mark.parametrize("number", range(4))
            def test_it(web, number):
                note("ran", number)
                if number == 1 and "KILL" in os.environ:
                    client = docker.from_env()
                    client.containers.get(web.id).kill()
                    client.close()
        """)
        args = ["--plan-reuse"] if reused else []
        try:
            if reused:
                project.run(*args).assert_outcomes(passed=4)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("KILL", "1")
                result = project.run(*args)
        finally:
            project.run("--plan-cleanup")
        assert result.ret == 1
        lost = [line for line in plan_lines(result) if line.startswith("plan: web lost at ")]
        assert lost
        assert f"container {IMAGE!r} exited with status 137" in lost[0]
        assert project.calls[-2:] == ["ran 0", "ran 1"]

    def test_a_job_that_ends_and_a_cleanup_are_no_loss(self, project: Project, engine: Any) -> None:
        """A service that publishes no port may exit with 0; a retry removes its container."""
        project.write(
            "compose.yml",
            f"""
            services:
              web: {{image: {IMAGE}, command: [sleep, "600"]}}
              job: {{image: {IMAGE}, command: [sleep, "2"]}}
        """,
        )
        project.steps(
            STEPS,
            """
            @step(retries=1, retry_wait=0)
            def stack(ctx):
                value = compose(ctx, FILE)
                if ctx.attempt == 1:
                    raise OSError("not yet")
                return value
        """,
        )
        project.tests("""
            import docker

            def test_it(stack):
                client = docker.from_env()
                client.containers.get(stack["job"].id).wait(timeout=60)
                client.close()

            def test_next(stack): pass
        """)
        result = project.run()
        result.assert_outcomes(passed=2)
        assert "lost" not in result.stdout.str()
