"""Tests that stop and start programs of steps: `plan.program`."""

from __future__ import annotations

import psutil
import pytest

from tests.plugin.project import Project

# A server that says which process answers.
SERVER = """
import http.server, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{os.getpid()} {os.environ.get('A')} {os.getcwd()}".encode())

    def log_message(self, *args):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
HELPERS = """
import os, select, signal, sys
from urllib.request import urlopen
import pytest

SERVE = [sys.executable, "server.py"]

def ask(url):
    with urlopen(url) as answer:
        return answer.read().decode()

def is_there(url):
    try:
        return bool(ask(url))
    except OSError:
        return False

def kill(pid, number=signal.SIGKILL):
    end = os.pidfd_open(pid)
    os.kill(pid, number)
    select.select([end], [], [], 20)
    os.close(end)
"""
SERVICE = """
from helpers import SERVE, ask
from pytest_plan.steps import http, service

@pytest.mark.plan_step(timeout="30s")
def web(ctx):
    url = service(ctx, [*SERVE, "{port}"], ready=http("/"), env={"A": "1"}).url
    yield url
    note("cleanup", ask(url).split()[0])
"""
QUIET = SERVICE.partition("    yield")[0] + "    return url\n"
# Without a condition, a program is ready again when it listens where it has listened.
STARTED = """
from helpers import SERVE, ask, is_there

@pytest.mark.plan_step
def web(ctx):
    port = ctx.free_port()
    ctx.start([*SERVE, str(port)], env={"A": "1"})
    url = f"http://127.0.0.1:{port}"
    ctx.wait_until(lambda: is_there(url))
    yield url
    note("cleanup", ask(url).split()[0])
"""
SHELLS = """
@pytest.mark.plan_step
def shells(ctx):
    ctx.start(["sleep", "600"])
    ctx.start(["sh", "-c", "trap 'exit 3' TERM; sleep 600 & wait"])
    ctx.start(["true"], watch=False).wait()
    ctx.run(["true"])

@pytest.mark.plan_step(needs=())
def nothing():
    pass

@pytest.mark.plan_step(needs=())
def twins(ctx):
    ctx.start(["sleep", "600"])
    ctx.start(["sleep", "600"])
"""


@pytest.fixture
def services(project: Project) -> Project:
    """A project with a server and helpers."""
    project.write("server.py", SERVER)
    project.write("helpers.py", HELPERS)
    return project


@pytest.mark.parametrize("steps", [SERVICE, STARTED])
@pytest.mark.parametrize("action", ["stop", "kill"])
def test_a_test_stops_and_starts_a_program(services: Project, steps: str, action: str) -> None:
    """It has the same port, environment and folder, and is another process."""
    services.steps(steps)
    services.tests(
        f"""
        from helpers import ask, is_there

        def test_it(plan, web, monkeypatch, tmp_path):
            program = plan.program("web")
            assert program.name.startswith("python")
            first = ask(web).split()
            program.{action}()
            assert not is_there(web)
            program.{action}()
            monkeypatch.setenv("A", "2")
            monkeypatch.chdir(tmp_path)
            program.start()
            second = ask(web).split()
            assert second[0] != first[0] and second[1:] == first[1:]
            note("second", second[0])

        def test_later(web):
            assert ask(web)
        """
    )
    result = services.run()
    result.assert_outcomes(passed=2)
    assert result.ret == 0
    assert "lost" not in result.stdout.str()
    second, cleanup = services.calls
    assert second.removeprefix("second ") == cleanup.removeprefix("cleanup ")


@pytest.mark.parametrize("steps", [SERVICE, STARTED])
def test_what_a_test_leaves_stopped_is_started_again(services: Project, steps: str) -> None:
    """Before the next test, and also for what a fixture has stopped last."""
    services.steps(steps)
    services.tests(
        """
        from helpers import is_there

        def test_stops(plan):
            plan.program("web").stop()

        def test_next(web):
            assert is_there(web)

        @pytest.fixture
        def stops(plan):
            yield
            plan.program("web").kill()

        def test_fixture(stops):
            pass

        def test_last(web):
            assert is_there(web)
        """
    )
    services.run().assert_outcomes(passed=4)


def test_a_program_that_cannot_be_started_again_is_lost(services: Project) -> None:
    """Tests that need its step are blocked, with the reason."""
    services.steps(QUIET)
    services.tests(
        """
        import pathlib

        def test_stops(plan):
            plan.program("web").stop()
            pathlib.Path("server.py").write_text("raise SystemExit(5)")

        def test_next(web):
            pass
        """
    )
    result = services.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["plan: web lost at *was not started again: RuntimeError: 'python*' exited with*"]
    )
    result.stdout.fnmatch_lines(["*1 passed, 1 error, 1 blocked*"])


def test_a_start_that_fails_is_the_error_of_the_test(services: Project) -> None:
    """Another attempt is made when the test has ended."""
    services.steps(SERVICE)
    services.tests(
        """
        import pathlib, pytest

        def test_stops(plan):
            program = plan.program("web")
            program.stop()
            file = pathlib.Path("server.py")
            code = file.read_text()
            file.write_text("raise SystemExit(5)")
            with pytest.raises(RuntimeError, match="exited with status 5 when it"):
                program.start()
            file.write_text(code)

        def test_next(web):
            pass
        """
    )
    services.run().assert_outcomes(passed=2)


def test_a_program_that_is_not_ready_in_time_is_the_error_of_the_test(services: Project) -> None:
    """The message has the last answer, as that of a step."""
    services.steps(
        """
        from helpers import SERVE
        from pytest_plan.steps import service

        @pytest.mark.plan_step
        def web(ctx):
            def ready(web):
                return not os.path.exists("broken")
            service(ctx, [*SERVE, "{port}"], ready=ready, timeout="1s")
        """
    )
    services.tests(
        """
        import pathlib

        def test_it(plan, web):
            program = plan.program("web")
            program.stop()
            pathlib.Path("broken").touch()
            with pytest.raises(TimeoutError, match="not ready after 1s: .*ready: False"):
                program.start()
            pathlib.Path("broken").unlink()
            program.start()
        """
    )
    services.run().assert_outcomes(passed=1)


def test_it_is_watched_again(services: Project) -> None:
    """A program that ends after it was started again loses its step, as any other."""
    services.steps(QUIET)
    services.tests(
        """
        from helpers import ask, kill

        def test_it(plan, web):
            program = plan.program("web")
            program.stop()
            program.start()
            kill(int(ask(web).split()[0]))

        def test_next(web):
            pass
        """
    )
    result = services.run()
    result.stdout.fnmatch_lines(["plan: web lost at *", "*1 passed, 1 error, 1 blocked*"])


def test_one_of_several_programs_has_a_name(services: Project) -> None:
    """An error lists what there is."""
    services.steps(SHELLS)
    services.tests(
        """
        def fails(call):
            with pytest.raises(KeyError) as caught:
                call()
            return caught.value.args[0]

        def test_it(plan):
            assert plan.program("shells", "sleep").name == "sleep"
            assert repr(plan.program("shells", "sh")) == "<ProgramHandle 'sh' of step 'shells'>"
            assert fails(lambda: plan.program("shells")) == (
                "step 'shells' has started several programs: 'sleep', 'sh'; name one of them"
            )
            assert fails(lambda: plan.program("shells", "nginx")) == (
                "step 'shells' has started no program 'nginx'; its programs: 'sleep', 'sh'"
            )
            assert fails(lambda: plan.program("twins", "sleep")) == (
                "step 'twins' has started several programs 'sleep'; start each in its own step"
            )
            assert fails(lambda: plan.program("nothing")) == (
                "step 'nothing' has started no program with ctx.start or service"
            )
            assert fails(lambda: plan.program("shell")) == (
                "unknown step 'shell' (known steps: shells, nothing, twins)"
            )
        """
    )
    services.run().assert_outcomes(passed=1)


def test_a_running_program_cannot_be_started(services: Project) -> None:
    """The message says what to do."""
    services.steps(SHELLS)
    services.tests(
        """
        def test_it(plan):
            with pytest.raises(RuntimeError, match="'sleep' of step 'shells' is running; stop it"):
                plan.program("shells", "sleep").start()
        """
    )
    services.run().assert_outcomes(passed=1)


def test_the_whole_tree_is_ended(services: Project) -> None:
    """The program gets its stop signal first."""
    services.steps(
        """
        import pathlib

        @pytest.mark.plan_step
        def tree(ctx):
            code = "trap 'echo asked >asked; exit 0' USR1; sleep 600 & echo $! >child; wait"
            ctx.start(["sh", "-c", code], stop_signal=10)
            ctx.wait_until(lambda: os.path.exists("child"))
            return int(pathlib.Path("child").read_text())
        """
    )
    services.tests(
        """
        import psutil

        def test_it(plan, tree):
            plan.program("tree").stop()
            assert os.path.exists("asked")
            assert not psutil.pid_exists(tree) or psutil.Process(tree).status() == "zombie"
            os.remove("asked")
            plan.program("tree").start()
            plan.program("tree").kill()
            assert not os.path.exists("asked")
        """
    )
    services.run().assert_outcomes(passed=1)


def test_what_a_step_undoes_later_is_undone_in_its_order(services: Project) -> None:
    """A program that was started again is ended when the first one would have been."""
    services.steps(
        """
        from helpers import SERVE, ask
        from pytest_plan.steps import http, service

        def drop(url):
            note("dropped", bool(ask(url)))

        @pytest.mark.plan_step
        def web(ctx):
            url = service(ctx, [*SERVE, "{port}"], ready=http("/")).url
            ctx.defer(drop, url)
        """
    )
    services.tests(
        """
        def test_it(plan):
            plan.program("web").stop()
            plan.program("web").start()
        """
    )
    result = services.run()
    result.assert_outcomes(passed=1)
    assert services.calls == ["dropped True"]


def test_a_kept_program_was_started_again(services: Project) -> None:
    """The next run reuses it; it cannot stop it, because another run has started it."""
    services.steps(QUIET)
    services.tests(
        """
        import pathlib
        from helpers import ask

        def test_it(plan, web):
            if os.environ.get("AGAIN"):
                assert ask(web).split()[0] == pathlib.Path("pid").read_text()
                assert plan.program("web").name.startswith("python")
            else:
                plan.program("web").kill()
                plan.program("web").start()
                with open("pid", "w") as file:
                    file.write(ask(web).split()[0])
        """
    )
    services.run_apart("--plan-keep", "always").assert_outcomes(passed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGAIN", "1")
        services.run_apart("--plan-reuse").assert_outcomes(passed=1)
    assert services.run("--plan-cleanup").ret in (0, 5)


def test_a_daemon_that_was_started_again_is_kept(services: Project) -> None:
    """The next run finds it running, although the program that has left it has ended."""
    services.steps(
        """
        import pathlib
        from helpers import SERVE, ask
        from pytest_plan.steps import http, service

        @pytest.mark.plan_step
        def web(ctx):
            script = '"$@" >/dev/null 2>&1 & exit 0'
            return service(ctx, ["setsid", "sh", "-c", script, "sh", *SERVE, "{port}"]).url
        """
    )
    services.tests(
        """
        import pathlib
        from helpers import ask

        def test_it(plan, web):
            if os.environ.get("AGAIN"):
                assert ask(web).split()[0] == pathlib.Path("pid").read_text()
            else:
                program = plan.program("web")
                program.stop()
                program.start()
                pathlib.Path("pid").write_text(ask(web).split()[0])
        """
    )
    services.run_apart("--plan-keep", "always").assert_outcomes(passed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGAIN", "1")
        result = services.run_apart("--plan-reuse")
    services.run("--plan-cleanup")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["plan: web  reused *unchanged, its processes are running*"])


def test_a_forked_copy_cannot_stop_a_program(services: Project) -> None:
    """It would not be started again there."""
    services.steps(SHELLS)
    services.tests(
        """
        def test_it(plan):
            program = plan.program("shells", "sleep")
            if (pid := os.fork()) == 0:
                try:
                    program.stop()
                except Exception as error:
                    os._exit(7 if "forked copy" in str(error) else 8)
                os._exit(9)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        """
    )
    services.run_apart().assert_outcomes(passed=1)


# A server that is ready some time after it listens.
SLOW = SERVER.replace(
    "http.server.HTTPServer",
    """server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("begins", flush=True)
import time; time.sleep(0.3)
print("ready", flush=True)
server.serve_forever()
#""",
)
KEPT = """
from helpers import SERVE, ask
from pytest_plan.steps import http, log_line, service, tcp

def answers(web):
    return bool(ask(web.url))

@pytest.mark.plan_step(timeout="30s")
def web(ctx):
    ctx.setenv("B", "of the plan")
    return service(ctx, [*SERVE, "{port}"], ready=READY, env={"A": "1"}).url

@pytest.mark.plan_step
def user(web):
    return web
"""
OUTAGE = """
from urllib.error import URLError
from urllib.request import urlopen
from helpers import ask, is_there

def test_outage(plan, user, monkeypatch, tmp_path):
    program = plan.program("web")
    first = ask(user).split()
    note(first[0])
    monkeypatch.setenv("A", "2")
    monkeypatch.chdir(tmp_path)
    program.ACTION()
    assert not is_there(user)
    program.ACTION()
    program.start()
    second = ask(user).split()
    assert second[0] != first[0] and second[1:] == first[1:]
    with pytest.raises(RuntimeError, match="is running; stop it first"):
        program.start()
    note(second[0])

def test_left_stopped(plan, user):
    plan.program("web").stop()

def test_later(user):
    note(ask(user).split()[0])
"""


def is_running(pid: int) -> bool:
    """Return whether a process is running; it may have ended without being reaped."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize(
    ("ready", "action"),
    [
        ('http("/")', "stop"),
        ('http("/") & log_line("^ready", times=1) & tcp()', "kill"),
        ("answers", "stop"),
    ],
)
def test_a_program_of_a_reused_step(
    services: Project, ready: str, action: str, workers: str
) -> None:
    """As in the run that has started it; the next run reuses what this one has started again."""
    services.write("server.py", SLOW)
    services.steps(KEPT.replace("READY", ready))
    services.tests(OUTAGE.replace("ACTION", action))
    options = ["-p", "xdist", "-n", workers]
    services.run_apart("--plan-keep", "always", *options).assert_outcomes(passed=3)
    for _ in range(2):
        before = services.calls[-1]
        result = services.run_apart("--plan-reuse", *options)
        result.assert_outcomes(passed=3)
        result.stdout.fnmatch_lines(["plan: web *reused *its processes are running"])
        assert "lost" not in result.stdout.str()
        assert services.calls[-3] == before
    pids = [int(pid) for pid in services.calls]
    assert len(set(pids)) == 7
    assert is_running(pids[-1])
    assert services.run("--plan-cleanup").ret == 0
    assert not any(map(is_running, pids))


def test_a_restarted_program_of_a_reused_step_is_watched_and_cleaned_up(
    services: Project,
) -> None:
    """Also after SIGKILL; the line of a loss has the exit status, which is known now."""
    services.steps(KEPT.replace("READY", 'http("/")'))
    services.tests(
        """
        import signal
        from helpers import ask, kill

        def test_restarts(plan, web):
            if "DIES" not in os.environ:
                return
            plan.program("web").stop()
            plan.program("web").start()
            pid = int(ask(web).split()[0])
            note(pid)
            if os.environ["DIES"] == "program":
                kill(pid, signal.SIGTERM)
            else:
                os.kill(os.getpid(), signal.SIGKILL)

        def test_blocked(web): pass
        """
    )
    services.run_apart("--plan-keep", "always").assert_outcomes(passed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIES", "program")
        result = services.run_apart("--plan-reuse")
        assert result.ret == 1
        result.stdout.fnmatch_lines(["plan: web lost at *: 'python*' died of signal 15*"])
        services.run_apart("--plan-reuse")  # it is rebuilt, and lost again
        patch.setenv("DIES", "pytest")
        services.write("pytest.ini", "[pytest]\nplan_reaper = false\n")
        services.run_apart("--plan-keep", "always")
    services.run("--plan-cleanup")
    assert len(services.calls) == 3
    assert not any(is_running(int(pid)) for pid in services.calls)


def test_a_program_with_a_secret_can_be_stopped_but_not_started(services: Project) -> None:
    """The journal has no secret, so a later run cannot know the command."""
    services.steps(
        KEPT.replace("READY", 'http("/")').replace(
            "env={", 'env={"PASSWORD": ctx.secret("hunter2-of-web").reveal(), '
        )
    )
    services.tests(
        """
        from helpers import is_there

        def test_it(plan, web):
            if "AGAIN" in os.environ:
                plan.program("web").stop()
                assert not is_there(web)
                with pytest.raises(RuntimeError) as caught:
                    plan.program("web").start()
                note(str(caught.value).partition(" of ")[2])

        def test_blocked(web): pass
        """
    )
    services.run_apart("--plan-keep", "always").assert_outcomes(passed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGAIN", "1")
        result = services.run_apart("--plan-reuse")
    assert services.calls == [
        "step 'web' can be stopped but not started, because the journal has no record of how an "
        "earlier run started it: it contains a secret; run without --plan-reuse"
    ]
    result.stdout.fnmatch_lines(["plan: web lost at *was not started again: *contains a secret*"])
    for path in (services.path / ".pytest_plan").rglob("*"):
        assert not path.is_file() or b"hunter2-of-web" not in path.read_bytes()
    assert services.run("--plan-cleanup").ret == 0


def test_a_program_that_an_earlier_version_has_started(services: Project) -> None:
    """The journal does not tell how it was started, and the error says so."""
    services.steps(
        KEPT.replace("READY", 'http("/")'),
        """
        from pytest_plan.engine.journal.journal import Journal

        planned = Journal.tree_planned

        def as_before(self, step, hook, label, how, start=None):
            how = {key: how[key] for key in how if key != "program"}
            return planned(self, step, hook, label, how)

        if "OLD" in os.environ:
            Journal.tree_planned = as_before
        """,
    )
    services.tests(
        """
        def test_it(plan, web):
            if "OLD" not in os.environ:
                with pytest.raises(KeyError, match="step 'web' is reused, and no program"):
                    plan.program("web")
        """
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLD", "1")
        services.run_apart("--plan-keep", "always").assert_outcomes(passed=1)
    services.run_apart("--plan-reuse").assert_outcomes(passed=1)
    assert services.run("--plan-cleanup").ret == 0


def test_a_program_that_is_not_there_any_more_is_not_started(services: Project) -> None:
    """An `alive` hook may say that its step needs it no longer, or that it is on another host."""
    services.steps(
        """
        def is_alive(): return True

        @pytest.mark.plan_step(alive=is_alive)
        def web(ctx):
            return ctx.start(["sleep", "600"]).pid
        """
    )
    services.tests(
        """
        def test_it(plan, web):
            if "AGAIN" in os.environ:
                with pytest.raises(KeyError, match="step 'web' is reused, and no program"):
                    plan.program("web")
            note(web)
        """
    )
    services.run_apart("--plan-keep", "always").assert_outcomes(passed=1)
    psutil.Process(int(services.calls[0])).kill()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGAIN", "1")
        services.run_apart("--plan-reuse").assert_outcomes(passed=1)
    assert services.run("--plan-cleanup").ret == 0
