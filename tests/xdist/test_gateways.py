"""Every kind of gateway through which xdist can start a worker."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.plugin.project import ROOT
from tests.xdist.cluster import Cluster, once, outcomes, wait_until

_XDIST = tuple(map(int, version("pytest-xdist").split(".")[:2]))

STEPS = """
import sys

@pytest.mark.plan_step
def db(ctx):
    note("db")
    ctx.setenv("DB_URL", "tcp://db")
    yield ["value"]
    note("cleaned")
"""
TESTS = """
import sys

@pytest.mark.parametrize("number", range(6))
def test_it(db, plan, number):
    assert db == ["value"] and os.environ["DB_URL"] == "tcp://db"
    with plan.state.lock("sum"):
        plan.state["sum"] = plan.state.get("sum", 0) + 1
    note("in", sys.prefix)
"""


@pytest.fixture
def project(cluster: Cluster) -> Cluster:
    """A project with a step and six tests that use its value."""
    cluster.steps(STEPS)
    cluster.tests(TESTS)
    return cluster


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another interpreter, which finds the packages of the current one."""
    folder = tmp_path_factory.mktemp("other") / "venv"
    venv.create(folder, symlinks=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    (Path(packages) / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    return folder / "bin" / "python"


def _check(project: Cluster, result: pytest.RunResult, tests: int = 6) -> None:
    assert outcomes(result) == {"passed": tests}
    assert project.called("db") == project.called("cleaned") == 1
    once(result, "db")


def test_several_of_a_kind(project: Cluster) -> None:
    """`--tx 2*popen` starts two workers."""
    _check(project, project.apart("--dist", "load", "--tx", "2*popen"))


def test_another_interpreter(project: Cluster, other_python: Path) -> None:
    """Workers may use another interpreter than the controller."""
    _check(project, project.apart("--dist", "load", "--tx", f"popen//python={other_python}"))
    assert project.notes("in") == [str(other_python.parent.parent)] * 6


@pytest.mark.skipif(_XDIST < (3, 7), reason="pytest-xdist 3.7 has brought --px")
def test_behind_a_proxy(project: Cluster) -> None:
    """A worker may be reached through another gateway."""
    _check(
        project,
        project.apart("--px", "popen//id=px", "--dist", "load", "--tx", "popen//via=px"),
    )


@contextlib.contextmanager
def _far_worker(project: Cluster, far: Path) -> Iterator[list[str]]:
    """Start the server of a worker that has its own folder; yield the options for pytest."""
    import execnet.script.socketserver as server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (project.path / "calls.py").unlink()  # the worker's `note` writes to this project's file
    project.write("package/calls.py", _FAR_CALLS.format(path=str(project.path / "calls.txt")))
    for name in ("conftest.py", "test_it.py"):
        (project.path / name).rename(project.path / "package" / name)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    with subprocess.Popen(
        [sys.executable, server.__file__, f"127.0.0.1:{port}"],
        cwd=far,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_until(lambda: _answers(process, port))
            package = str(project.path / "package")
            yield [
                "-W", "default", "--dist", "load",
                "--tx", f"socket=127.0.0.1:{port}//chdir={far}",
                f"--rsyncdir={package}", package,
            ]  # fmt: skip
        finally:
            process.kill()


def test_over_a_socket(project: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A worker may be reached over TCP; it gets a copy of the tests by rsync."""
    with _far_worker(project, tmp_path_factory.mktemp("far")) as options:
        result = project.apart(*options)
    _check(project, result)


def test_a_far_worker_that_holds_its_interpreter_lock_is_named(
    project: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It cannot be killed from here: after the limit the run goes on to its end without it."""
    project.tests("""
    import itertools

    def test_counts(db):
        note("pid", os.getpid())
        sum(itertools.repeat(1, 10**11))
    """)
    with _far_worker(project, tmp_path_factory.mktemp("far")) as options:
        result = project.apart("--plan-limit=3s", *options)
    (pid,) = project.notes("pid")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.called("cleaned") == 1
    said = f"if process {pid} on {platform.node()} is still running, end it"
    result.stdout.fnmatch_lines([f"plan: worker 'gw0' did not end *{said}*", "*test_counts*"])


_SSH = """#!/bin/sh
# Runs the command on this machine, which cannot be reached any more once there is a file `gone`.
[ -e gone ] && exit 255
for command; do :; done
exec sh -c "$command"
"""


class TestHostThatIsLost:
    """A worker whose host cannot be reached again has no replacement."""

    @pytest.fixture
    def start(self, project: Cluster) -> Callable[..., pytest.RunResult]:
        """Runs the tests of the project with a worker on a host."""
        project.write("bin/ssh", _SSH).chmod(0o755)
        far = project.path / "far"
        project.write("far/conftest.py", (project.path / "conftest.py").read_text())
        project.write("far/pytest.ini", "[pytest]\n")
        project.write("pytest.ini", "[pytest]\ntestpaths = .\nnorecursedirs = far\n")
        words = [  # execnet does not close the pipes to an ssh that fails
            "-W", "default", "--dist", "load", "--tx",
            f"ssh=far//python={sys.executable}//chdir={far}"
            f"//env:PYTHONPATH={project.path}:{ROOT}//env:PYTEST_DISABLE_PLUGIN_AUTOLOAD=1",
        ]  # fmt: skip
        path = f"{project.path / 'bin'}:{os.environ['PATH']}"

        def run(tests: str, *args: str) -> pytest.RunResult:
            for file in ("test_it.py", "far/test_it.py"):
                project.tests(tests.format(gone=project.path / "gone"), name=file)
            return project.apart(*words, *args, env={"PATH": path})

        return run

    def test_others_take_over_its_tests(
        self, project: Cluster, start: Callable[..., pytest.RunResult]
    ) -> None:
        """A line says why it has no replacement."""
        result = start(
            """
        import time

        @pytest.mark.parametrize("number", range(6))
        def test_it(db, plan, number):
            is_far = "far" in os.getcwd()
            while not is_far and not os.path.exists('{gone}'):
                time.sleep(0.01)
            with plan.state.lock("of the far worker"):
                if is_far:
                    open('{gone}', "w").close()
                    os._exit(1)
        """,
            "--tx",
            "popen",
        )
        assert outcomes(result) == {"passed": 5, "failed": 1}
        result.stdout.fnmatch_lines(
            [
                "plan: worker 'gw*' is lost, and there is no way to start another one on "
                f"'{platform.node()}' (*)"
            ]
        )
        assert project.called("db") == project.called("cleaned") == 1

    def test_without_another_worker_the_session_fails(
        self, project: Cluster, start: Callable[..., pytest.RunResult]
    ) -> None:
        """It says that tests were not run."""
        result = start("""
        @pytest.mark.parametrize("number", range(6))
        def test_it(db, number):
            open('{gone}', "w").close()
            os._exit(1)
        """)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(
            ["!* worker 'gw0' is lost, *; the tests that were left for it were not run !*"]
        )
        assert project.called("cleaned") == 1

    def test_before_the_tests_the_session_fails(
        self, project: Cluster, start: Callable[..., pytest.RunResult]
    ) -> None:
        """The other worker has none to run, because xdist waits for both."""
        result = start(
            """
        import time

        def pytest_generate_tests():
            if "far" in os.getcwd():
                while not os.path.exists("../calls.txt"):
                    time.sleep(0.01)
                open('{gone}', "w").close()
                os._exit(1)

        def test_it(db): pass
        """,
            "--tx",
            "popen",
        )
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["!* worker 'gw0' is lost, *; no test was run !*"])
        assert project.called("cleaned") == 1


_FAR_CALLS = """
from pathlib import Path

FILE = Path({path!r})


def note(*words):
    with FILE.open("a") as file:
        print(*words, file=file)
"""


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the server listens. /proc is read because the server accepts only one connection."""
    assert process.poll() is None
    listening = f":{port:04X} 00000000:0000 0A"
    return listening in Path("/proc/net/tcp").read_text()


def test_plugin_missing_in_a_worker_is_one_clear_error(project: Cluster) -> None:
    """A worker without the plugin ends the run with an error, not with a silently skipped plan."""
    result = project.bare(
        "-p", "xdist", "--dist", "load", "--tx", "2*popen//env:PYTEST_PLUGINS=xdist",
        env={"PYTEST_PLUGINS": "pytest_plan"},
    )  # fmt: skip
    said = result.stdout.str() + result.stderr.str()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    refusal = "has not loaded pytest-plan: install it for the worker's interpreter as well"
    assert said.count(refusal) == 1
    assert "Traceback" not in said
    assert project.calls == []


def test_plugin_missing_in_the_controller_is_a_clear_error_of_each_test(project: Cluster) -> None:
    """Without the plugin in the controller, tests that need a step fail with the reason."""
    project.tests("""
    def test_db(db): note("ran")
    def test_state(plan): note("ran")
    def test_free(): pass
    """)
    result = project.bare(
        "-p", "xdist", "--dist", "load", "--tx", "2*popen//env:PYTEST_PLUGINS=pytest_plan",
    )  # fmt: skip
    assert project.calls == []
    said = "the controller of this run has not loaded pytest-plan, so no step was provisioned"
    counts = outcomes(result)
    assert counts["passed"] == 1
    assert counts["errors"] == 2
    assert result.stdout.str().count(said) >= 2
    assert result.ret == 1


def test_plugin_turned_off_is_off_everywhere(cluster: Cluster) -> None:
    """`-p no:pytest_plan` reaches the workers, and tests that need no step run."""
    cluster.tests("def test_it(): pass")
    result = cluster.bare("-p", "xdist", "-p", "no:pytest_plan", "-n", "2")
    assert outcomes(result) == {"passed": 1}
