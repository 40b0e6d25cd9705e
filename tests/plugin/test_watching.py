"""Steps whose programs end while tests run: they are lost, and tests that need them are blocked."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.plugin.project import Project

_HELPERS = """
import os, select, signal

def await_end(pid):
    '''Wait until a process has ended.'''
    try:
        number = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    select.select([number], [], [], 20)
    os.close(number)

def kill(pid, number=signal.SIGKILL):
    os.kill(pid, number)
    await_end(pid)
"""
# It ends as soon as its standard input is closed, which the test does by a named pipe.
_SERVICE = """
@pytest.mark.plan_step
def service(ctx):
    text = "read -r line < " + str(ctx.tmp_path / "die") + "; echo $line; exit 3"
    os.mkfifo(ctx.tmp_path / "die")
    ctx.state["die"] = str(ctx.tmp_path / "die")
    ctx.state["pid"] = ctx.start(["sh", "-c", text]).pid
"""
_DIE = """
from helpers import await_end, kill

def die(plan, line="FATAL: out of memory"):
    with open(plan.state["die"], "w") as file:
        file.write(line + chr(10))
    await_end(plan.state["pid"])
"""
_SLEEPER = """
@pytest.mark.plan_step
def service(ctx):
    ctx.state["pid"] = ctx.start(["sleep", "600"]).pid
"""


@pytest.fixture
def service(project: Project) -> Project:
    """A project with a step `service`, and the function `die` in its tests, which ends it."""
    project.write("helpers.py", _HELPERS)
    project.steps(_SERVICE)
    return project


@pytest.fixture
def sleeper(project: Project) -> Project:
    """A project with a step `service` that runs `sleep`, and `kill` in its tests."""
    project.write("helpers.py", _HELPERS)
    project.steps(_SLEEPER)
    return project


def lost_lines(result: pytest.RunResult) -> list[str]:
    """Return the lines that report a loss, without the time, folders and the number of tests."""
    text = (line for line in result.outlines if line.startswith("plan: ") and " lost at " in line)
    return [re.sub(r"\d\d:\d\d:\d\d", "TIME", line) for line in text]


def test_a_service_that_dies_is_one_line_and_tests_that_need_it_are_blocked(
    service: Project,
) -> None:
    """The line comes at once, with status, last line of the log and its file; then the count."""
    service.tests(_DIE, """
        def test_before(service): pass
        def test_dies(plan, service): die(plan)
        @pytest.mark.parametrize("number", range(3))
        def test_after(service, number): note("ran")
        def test_other(): pass
        """)  # fmt: skip
    result = service.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=3, errors=1)
    at_once, at_end = lost_lines(result)
    said = "plan: service lost at TIME: 'sh' exited with status 3; FATAL: out of memory"
    assert at_once.startswith(f"{said} (")
    assert at_once.endswith("/service/log.txt)")
    assert at_end == f"{said}; 0 tests failed and 3 were blocked after that"
    assert service.calls == []
    first = next(n for n, line in enumerate(result.outlines) if " lost at " in line)
    assert any("bbb" in line for line in result.outlines[first:])


def test_a_loss_that_no_test_notices_makes_the_run_fail(service: Project) -> None:
    """The service dies in the last test; the exit status is 1, and the loss is reported."""
    service.tests(_DIE, "def test_dies(plan, service): die(plan)")
    result = service.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, errors=1)
    assert len(lost_lines(result)) == 2


def test_a_test_that_fails_after_the_loss_says_so(service: Project) -> None:
    """Its report has a section that names the step, the time and the reason."""
    service.tests(_DIE, """
        def test_dies(plan, service):
            die(plan)
            assert 0
        """)  # fmt: skip
    result = service.run("-rA")
    result.stdout.fnmatch_lines(
        [
            "*- plan step 'service' lost -*",
            "plan step 'service' was lost at ??:??:??: 'sh' exited with status 3; FATAL: *",
            "plan: service lost at *; 1 test failed and 0 were blocked after that",
        ]
    )


def test_a_test_that_needs_no_lost_step_has_no_such_section(service: Project) -> None:
    """A failure that has nothing to do with the step does not mention it."""
    service.tests(_DIE, """
        def test_dies(plan, service): die(plan)
        def test_fails(): assert 0
        """)  # fmt: skip
    result = service.run()
    assert "0 tests failed and 0 were blocked" in lost_lines(result)[-1]
    result.stdout.no_fnmatch_line("*- plan step 'service' lost -*")


def test_tests_that_need_a_step_which_needs_the_lost_one_are_blocked(sleeper: Project) -> None:
    """The reason names the step that was lost."""
    sleeper.steps(_SLEEPER, """
        @pytest.mark.plan_step
        def app(service): return "app"
        @pytest.mark.plan_step(needs=())
        def other(): return "other"
        """)  # fmt: skip
    sleeper.tests("""
        from helpers import kill
        def test_kills(plan, service): kill(plan.state["pid"])
        def test_app(app): note("app")
        def test_other(other): note("other")
        """)  # fmt: skip
    result = sleeper.run("-rE", "-v")
    assert sleeper.calls == ["other"]
    result.stdout.fnmatch_lines(["BLOCKED *::test_app - plan step 'service' was lost at *signal 9"])


def test_steps_asked_for_late_end_the_test_and_results_know_the_loss(sleeper: Project) -> None:
    """`plan.need` and `getfixturevalue` look first; `plan.results` has the loss."""
    sleeper.steps(_SLEEPER, "@pytest.mark.plan_step(needs=())\ndef other(): pass")
    sleeper.tests("""
        from helpers import kill
        def test_kills(plan): kill(plan.state["pid"])
        @pytest.mark.plan("other")
        @pytest.mark.parametrize("ask", ["need", "fixture"])
        def test_late(plan, request, ask):
            lost = plan.results["service"].lost
            note(lost.program, lost.status, plan.results["service"].outcome.value)
            if ask == "need":
                plan.need("service")
            request.getfixturevalue("service")
        """)  # fmt: skip
    result = sleeper.run()
    assert sleeper.calls == ["sleep -9 succeeded"] * 2
    assert result.stdout.str().count("Failed: plan step 'service' was lost at") == 2


def test_cleanup_learns_of_the_loss_and_the_environment_is_kept_as_failed(
    sleeper: Project,
) -> None:
    """`ctx.reason` is `failure`, and `--plan-keep failed` keeps the environment."""
    sleeper.steps(_SLEEPER, """
        @pytest.mark.plan_step
        def other(ctx):
            ctx.defer(lambda: note(ctx.reason))
        """)  # fmt: skip
    sleeper.tests("""
        from helpers import kill
        def test_kills(plan, service, other): kill(plan.state["pid"])
        """)  # fmt: skip
    sleeper.run()
    assert sleeper.calls == ["failure"]
    sleeper.steps(_SLEEPER)
    sleeper.tests("""
        from helpers import kill
        def test_kills(plan, service): kill(plan.state["pid"])
        """)  # fmt: skip
    sleeper.run("--plan-keep=failed").stdout.fnmatch_lines(["plan: kept: service"])
    assert sleeper.run("--plan-cleanup").ret == 0


def test_a_loss_is_one_failure_for_maxfail(sleeper: Project) -> None:
    """With `-x` no further test begins; blocked tests are not counted."""
    sleeper.tests("""
        from helpers import kill
        def test_kills(plan, service): kill(plan.state["pid"])
        def test_after(service): pass
        def test_other(): note("other")
        """)  # fmt: skip
    result = sleeper.run("-x")
    assert sleeper.calls == []
    result.stdout.fnmatch_lines(["*stopping after 1 failures*"])
    assert sleeper.run("--maxfail=2").parseoutcomes()["blocked"] == 1
    assert sleeper.calls == ["other"]


@pytest.mark.parametrize(
    ("plugin", "arguments", "mark"),
    [
        ("pytest_rerunfailures", ("--reruns=2",), ""),
        ("pytest_rerunfailures", (), "@pytest.mark.flaky(reruns=2)"),
        ("pytest_retry", ("--retries=2",), ""),
        ("flaky.flaky_pytest_plugin", ("--force-flaky", "--max-runs=3"), ""),
    ],
)
def test_plugins_do_not_repeat_a_test_whose_step_is_lost(
    sleeper: Project, plugin: str, arguments: tuple[str, ...], mark: str
) -> None:
    """The test fails once, and the others that fail are repeated as before."""
    pytest.importorskip(plugin)
    name = "pytest_retry.retry_plugin" if plugin == "pytest_retry" else plugin
    sleeper.tests(f"""
        from helpers import kill
        {mark}
        def test_kills(plan, service):
            note("kills")
            kill(plan.state["pid"])
            assert 0
        {mark}
        def test_other():
            note("other")
            assert 0
        """)  # fmt: skip
    result = sleeper.pytester.runpytest_subprocess("-p", "pytest_plan", "-p", name, *arguments)
    assert sleeper.calls == ["kills", "other", "other", "other"], result.stdout.str()
    assert result.parseoutcomes()["failed"] == 2


ENDS = {
    "watch=False": ("p = ctx.start(['sh', '-c', 'exec sleep 600'], watch=False)", "kill"),
    "awaited": (
        "p = ctx.start(['sleep', '600'])\n"
        "    threading.Thread(target=p.wait, daemon=True).start()\n"
        "    ctx.wait_until(lambda: p.may_end)",
        "kill",
    ),
    "ended before the step did": (
        "p = ctx.start(['true'])\n    ctx.wait_until(lambda: p.poll() is not None)",
        "nothing",
    ),
    "stopped by a signal": ("p = ctx.start(['sleep', '600'])", "stop"),
    "a daemon of a step that does not wait": (
        "p = ctx.run(['sh', '-c', 'setsid sleep 600 & echo $!'])\n    p.pid = int(p.stdout)",
        "kill",
    ),
    "its daemon lives on": (
        "p = ctx.start(['sh', '-c', 'setsid sleep 600 & read -r x < ' + pipe + '; exit 0'])",
        "pipe",
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_program_that_may_end_is_not_lost(project: Project, how: str) -> None:
    """Programs that end as they mean to, or only pause, do not make the run fail."""
    start, act = ENDS[how]
    project.write("helpers.py", _HELPERS)
    project.steps(f"""
import threading

@pytest.mark.plan_step
def service(ctx):
    pipe = str(ctx.tmp_path / "pipe")
    os.mkfifo(pipe)
    {start}
    ctx.state["pid"], ctx.state["pipe"] = p.pid, pipe
""")
    acts = {
        "kill": "kill(pid)",
        "nothing": "pass",
        "stop": "os.kill(pid, signal.SIGSTOP)",
        "pipe": "open(plan.state['pipe'], 'w').close(); await_end(pid)",
    }
    project.tests(f"""
import signal
from helpers import await_end, kill

def test_acts(plan, service):
    pid = plan.state["pid"]
    {acts[act]}

def test_after(service): pass
""")
    result = project.run()
    result.assert_outcomes(passed=2)
    assert result.ret == 0
    assert lost_lines(result) == []


def test_a_program_that_exits_with_zero_while_tests_run_is_lost(service: Project) -> None:
    """A server that ends without an error is gone, too."""
    service.steps(_SERVICE.replace("exit 3", "exit 0"))
    service.tests(_DIE, """
        def test_dies(plan, service): die(plan)
        def test_after(service): pass
        """)  # fmt: skip
    result = service.run()
    assert result.parseoutcomes() == {"passed": 1, "errors": 1, "blocked": 1}
    assert "'sh' exited with status 0" in lost_lines(result)[0]


def test_a_daemon_is_lost_once_its_last_process_has_ended(project: Project) -> None:
    """The program has exited with status 0 and has left a process, which a test kills."""
    project.write("helpers.py", _HELPERS)
    project.steps("""
        @pytest.mark.plan_step
        def service(ctx):
            text = "setsid sleep 600 & echo $! > " + str(ctx.tmp_path / "pid")
            ctx.start(["sh", "-c", text])
            ctx.wait_until((ctx.tmp_path / "pid").exists)
            ctx.wait_until(lambda: (ctx.tmp_path / "pid").read_text())
            ctx.state["pid"] = int((ctx.tmp_path / "pid").read_text())
        """)  # fmt: skip
    project.tests("""
        from helpers import kill
        def test_before(service): pass
        def test_kills(plan, service): kill(plan.state["pid"])
        def test_after(service): pass
        """)  # fmt: skip
    result = project.run()
    assert result.parseoutcomes() == {"passed": 2, "errors": 1, "blocked": 1}
    assert "left a daemon, which has ended too (" in lost_lines(result)[0]


def test_a_program_of_an_undone_attempt_is_not_lost(sleeper: Project) -> None:
    """Only what the last attempt has started counts."""
    sleeper.steps("""
        @pytest.mark.plan_step(retries=1, retry_wait=0)
        def service(ctx):
            ctx.watch(lambda: ctx.attempt == 2, every=0.05)
            ctx.start(["sleep", "600"])
            assert ctx.attempt == 2
        """)  # fmt: skip
    sleeper.tests("""
        import time
        def test_it(service): time.sleep(0.5)
        """)  # fmt: skip
    result = sleeper.run()
    result.assert_outcomes(passed=1)
    assert lost_lines(result) == []


def test_the_status_of_a_reused_program_is_unknown(sleeper: Project) -> None:
    """A step that an earlier run has kept is watched; its status is null."""
    sleeper.tests("def test_it(service): pass")
    sleeper.run_apart("--plan-keep=always", "--plan-reuse").assert_outcomes(passed=1)
    sleeper.tests("""
        from helpers import kill
        def test_kills(plan, service): kill(plan.state["pid"])
        def test_after(service): pass
        """)  # fmt: skip
    result = sleeper.run("--plan-reuse", "--plan-keep=never", "--plan-report=r.json")
    assert result.parseoutcomes() == {"passed": 1, "errors": 1, "blocked": 1}
    (step,) = json.loads((sleeper.path / "r.json").read_text())["steps"]
    assert step["outcome"] == "reused"
    assert step["lost"]["status"] is None


CHECKS = {
    "a false value": ("lambda: not dead.exists()", "it returned False"),
    "an exception": ("lambda: dead.exists() and 1 / 0 or True", "ZeroDivisionError: division"),
    "no answer": ("lambda: not dead.exists() or gate.wait()", "no answer within 1 s"),
    "a coroutine": ("check", "ValueError: broken"),
}


@pytest.mark.parametrize("how", CHECKS)
def test_a_step_is_lost_when_its_check_fails_three_times(project: Project, how: str) -> None:
    """The line names the check and its last error; another check goes on meanwhile."""
    check, error = CHECKS[how]
    project.steps(f"""
import threading

@pytest.mark.plan_step
def service(ctx):
    dead, other, gate = ctx.tmp_path / "dead", [], threading.Event()

    async def check():
        if dead.exists():
            raise ValueError("broken")
        return True

    ctx.watch({check}, every="50ms")
    ctx.watch(lambda: other.append(1) or ctx.state.update(other=len(other)) or True, every="50ms")
    yield str(dead)
    gate.set()
""")
    project.tests("""
        import time
        def test_dies(plan, service):
            open(service, "w").close()
            until = time.monotonic() + 60
            while plan.results["service"].lost is None and time.monotonic() < until:
                time.sleep(0.05)
            note(plan.results["service"].lost.status)
            before = plan.state["other"]
            while plan.state["other"] == before and time.monotonic() < until:
                time.sleep(0.05)
            note(plan.state["other"] > before)
        def test_after(service): pass
        """)  # fmt: skip
    result = project.run()
    assert result.parseoutcomes() == {"passed": 1, "errors": 1, "blocked": 1}
    assert project.calls == ["None", "True"]
    name = "check" if how == "a coroutine" else "<lambda>"
    assert re.search(f"lost at TIME: check '{name}' failed: {error}", lost_lines(result)[0])


def test_the_alive_hook_is_called_while_tests_run(project: Project) -> None:
    """With `alive_every`, a step whose hook reports three times that it is broken is lost."""
    project.steps("""
        class Service(Step):
            alive_every = "50ms"
            def exec(self, ctx): return str(ctx.tmp_path / "dead")
            def alive(self, value):
                note("asked")
                return not os.path.exists(value)
        pytest.mark.plan_step(Service)
        """)  # fmt: skip
    project.tests("""
        import time
        def test_dies(plan, service):
            open(service, "w").close()
            until = time.monotonic() + 60
            while plan.results["service"].lost is None and time.monotonic() < until:
                time.sleep(0.05)
        def test_after(service): pass
        """)  # fmt: skip
    result = project.run()
    assert result.parseoutcomes() == {"passed": 1, "errors": 1, "blocked": 1}
    assert project.calls.count("asked") >= 3
    assert "check 'alive' failed: it returned False" in lost_lines(result)[0]


def test_checks_end_before_cleanup(project: Project) -> None:
    """A check that would fail during cleanup is not called, and nothing is lost."""
    project.steps("""
        import time
        @pytest.mark.plan_step
        def service(ctx):
            alive = [1]
            def check():
                note("down" if not alive else "up")
                return alive
            ctx.watch(check, every="20ms")
            yield
            alive.clear()
            time.sleep(0.5)
        """)  # fmt: skip
    project.tests("import time\ndef test_it(service): time.sleep(0.3)")
    result = project.run()
    result.assert_outcomes(passed=1)
    assert set(project.calls) == {"up"}


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("@pytest.mark.plan_step(alive_every='5s')\ndef s(): pass", "needs an alive hook"),
        ("@pytest.mark.plan_step(alive_every='x')\ndef s(): pass", "alive_every of step 's'"),
        ("@pytest.mark.plan_step\ndef s(ctx): ctx.watch(1)", "takes a function, not 1"),
        ("@pytest.mark.plan_step\ndef s(ctx): ctx.watch(dir, every=0)", "ctx.watch: every"),
    ],
)
def test_bad_checks_are_refused(project: Project, steps: str, said: str) -> None:
    """The message names the option or the argument."""
    project.steps(steps)
    project.tests("def test_it(s): pass")
    result = project.run()
    assert result.ret != 0
    assert said in result.stdout.str() + result.stderr.str()


def test_secrets_are_masked_in_the_line(service: Project) -> None:
    """The last line of the log is shown with known secrets masked, in every report."""
    service.steps(_SERVICE, "@pytest.mark.plan_step\ndef key(): return Secret('swordfish')")
    service.tests(_DIE, """
        def test_dies(plan, service, key): die(plan, "key: swordfish")
        def test_after(service): pass
        """)  # fmt: skip
    result = service.run("-rE")
    assert "key: ***" in lost_lines(result)[0]
    assert "swordfish" not in result.stdout.str()


def _refuse(*_: Any) -> Any:
    raise OSError("no descriptor")


def test_without_descriptors_of_processes_losses_are_noticed(
    sleeper: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a system without them, or in a sandbox that forbids them, programs are looked at."""
    sleeper.tests("""
        import os, signal, time
        def test_kills(plan, service):
            os.kill(plan.state["pid"], signal.SIGKILL)
            until = time.monotonic() + 60
            while plan.results["service"].lost is None and time.monotonic() < until:
                time.sleep(0.05)
        def test_after(service): pass
        """)  # fmt: skip
    monkeypatch.setattr(os, "pidfd_open", _refuse)
    result = sleeper.run()
    assert result.parseoutcomes() == {"passed": 1, "errors": 1, "blocked": 1}


def test_a_system_that_refuses_the_thread_still_notices_before_the_next_test(
    sleeper: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate looks at the descriptors itself."""
    start: Callable[[threading.Thread], None] = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "plan-watcher":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    sleeper.tests("""
        from helpers import kill
        def test_kills(plan, service): kill(plan.state["pid"])
        def test_after(service): pass
        """)  # fmt: skip
    result = sleeper.run()
    assert result.parseoutcomes() == {"passed": 1, "errors": 1, "blocked": 1}


def test_a_step_that_needs_a_lost_one_does_not_begin(sleeper: Project) -> None:
    """An eager step is watched during collection; what needs it is blocked with the reason."""
    sleeper.steps(
        _SLEEPER.replace("plan_step", "plan_step(eager=True)"),
        """
        @pytest.mark.plan_step
        def app(service): note("ran")

        def pytest_collection_modifyitems(config):
            from helpers import kill
            from pytest_plan.plugin.session import lookup
            kill(lookup.peek(config).view.state["pid"])
        """,
    )
    sleeper.tests("""
        def test_app(app): pass
        def test_service(service): pass
        def test_other(): pass
        """)  # fmt: skip
    result = sleeper.run("-rE", "-v")
    assert result.parseoutcomes() == {"passed": 1, "errors": 1, "blocked": 2}
    assert sleeper.calls == []
    result.stdout.fnmatch_lines(
        [
            "plan: app *blocked *needs 'service': lost: 'sleep' died of signal 9",
            "BLOCKED *::test_app - plan step 'service' was lost at *",
            "BLOCKED *::test_service - plan step 'service' was lost at *",
        ]
    )


def test_a_forked_copy_of_the_process_loses_nothing(sleeper: Project) -> None:
    """A test that forks does not disturb the watch, and its copy reports nothing."""
    sleeper.tests("""
        from helpers import kill
        def test_forks(plan, service):
            if os.fork() == 0:
                plan.need("service")
                os._exit(0)
            os.wait()
        def test_kills(plan, service): kill(plan.state["pid"])
        def test_after(service): pass
        """)  # fmt: skip
    result = sleeper.run()
    assert result.parseoutcomes() == {"passed": 2, "errors": 1, "blocked": 1}


def test_a_run_without_programs_watches_nothing(project: Project) -> None:
    """There is no thread, and no hook, that could cost anything."""
    project.steps("@pytest.mark.plan_step\ndef s(): return 1")
    project.tests("""
        import threading
        def test_it(s, pytestconfig):
            assert not pytestconfig.pluginmanager.has_plugin("pytest_plan_watching")
            assert not {"plan-watcher", "plan-checks"} & {t.name for t in threading.enumerate()}
        """)  # fmt: skip
    project.run().assert_outcomes(passed=1)


def test_the_threads_end_with_the_watch(sleeper: Project) -> None:
    """After cleanup, neither thread is left."""
    sleeper.steps(_SLEEPER, "@pytest.mark.plan_step\ndef c(ctx): ctx.watch(lambda: 1, every=1)")
    sleeper.tests("def test_it(service, c): pass")
    sleeper.run().assert_outcomes(passed=1)
    assert not [t for t in threading.enumerate() if t.name in ("plan-watcher", "plan-checks")]


def test_a_server_that_a_fixture_of_the_tests_stops_at_the_end_counts(sleeper: Project) -> None:
    """Watching ends when cleanup begins: what ends before that is a loss."""
    sleeper.tests("""
        from helpers import kill
        @pytest.fixture(scope="session")
        def killer(plan):
            yield
            kill(plan.state["pid"])
        def test_it(service, killer): pass
        """)  # fmt: skip
    result = sleeper.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert len(lost_lines(result)) == 2


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the helpers use pidfd_open")


_CLIENT = """
def drop(name):
    note("dropped", name)
    raise OSError("connection refused")

@pytest.mark.plan_step
def database(ctx, service):
    ctx.defer(drop, "database")

@pytest.mark.plan_step
def table(ctx, database):
    ctx.defer(drop, "table")
"""


def test_what_was_in_a_lost_step_is_gone_with_it(service: Project) -> None:
    """Its undo is tried once; a failure is a line, not an error, and a later run has no work."""
    service.steps(_SERVICE, _CLIENT)
    service.tests(_DIE, "def test_dies(plan, table): die(plan)")
    result = service.run()
    result.assert_outcomes(passed=1, errors=1)
    assert service.calls == ["dropped table", "dropped database"]
    gone = [line.split("  ")[-1] for line in result.outlines if " gone with " in line]
    assert gone == ["gone with 'service'; its cleanup failed: OSError: connection refused"] * 2
    assert list(service.path.glob(".pytest_plan/environments/*")) == []


def test_a_cleanup_that_has_nothing_to_do_with_a_lost_step_still_fails(service: Project) -> None:
    """A step that does not need the lost one reports its failed cleanup as an error."""
    service.steps(_SERVICE, _CLIENT.replace("ctx, service", "ctx"))
    service.tests(_DIE, "def test_dies(plan, table, service): die(plan)")
    result = service.run()
    result.assert_outcomes(passed=1, errors=3)
    assert " gone with " not in result.stdout.str()
