"""Copies of the process: `os.fork` and `multiprocessing` in steps, fixtures and tests."""

from __future__ import annotations

import multiprocessing

import pytest

from tests.plugin.project import Project

LONGEST = 20.0  # seconds; a copy that waits for the plan takes longer
MACHINE = """
    @pytest.mark.plan_step
    def machine(ctx):
        program = ctx.start(["sleep", "602"])
        yield program.pid
        note("tail", os.getpid() == PID)

    PID = os.getpid()

    def pytest_plan_finished():
        note("finished")

    def pytest_sessionfinish():
        note("session")

    @pytest.fixture
    def thing():
        yield
        note("torn down")
"""
AFTER = """
    def test_after(machine):
        os.kill(machine, 0)
        note("after")
"""
ENDS = ["tail True", "finished"]


def check(project: Project, *args: str, status: int = 0) -> pytest.RunResult:
    """Run the project, and check that the plan was cleaned up once and reported once."""
    result = project.run_apart(*args)
    text = result.stdout.str()
    assert result.ret == status, text
    assert result.duration < LONGEST
    assert [call for call in project.calls if call in ENDS] == ENDS
    assert project.calls.count("session") == (3 if "-n" in args else 1)
    assert text.count("test session starts") == 1
    assert text.count("= plan =") == 1
    assert text.count(" in ") >= 1
    return result


@pytest.mark.parametrize("args", [(), ("-s",), ("-n", "2", "-p", "xdist")], ids=str)
@pytest.mark.parametrize(
    ("deed", "status"),
    [("sys.exit(0)", 0), ("sys.exit(3)", 3), ("return", 0), ("assert False", 1), ("exit()", 0)],
)
def test_a_copy_that_a_test_forks_ends_with_the_test(
    project: Project, deed: str, status: int, args: tuple[str, ...]
) -> None:
    """Its exit status is that of a Python program; it runs no other test and no teardown."""
    project.steps(MACHINE)
    project.tests(f"""
    import sys

    def test_forks(machine, thing):
        child = os.fork()
        if not child:
            {deed}
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == {status}

    def test_after(machine):
        os.kill(machine, 0)
        note("after")
    """)
    check(project, *args).assert_outcomes(passed=2)
    assert project.calls.count("after") == project.calls.count("torn down") == 1


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_copy_that_a_fixture_forks_ends_with_its_phase(project: Project, place: str) -> None:
    """The test itself and its teardown run once."""
    fork = """
        if not (child := os.fork()):
            raise SystemExit
        os.waitpid(child, 0)
    """
    project.steps(MACHINE)
    project.tests(f"""
    @pytest.fixture
    def forks():
        {fork if place == "before" else ""}
        yield
        {fork if place == "after" else ""}
        note("once")

    def test_it(machine, forks):
        note("test")
    """)
    check(project)
    assert project.calls.count("once") == project.calls.count("test") == 1


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="the system cannot fork"
)
@pytest.mark.parametrize("args", [(), ("-n", "1", "-p", "xdist")], ids=str)
def test_multiprocessing_forks_and_ends_its_processes(
    project: Project, args: tuple[str, ...]
) -> None:
    """A process that is terminated ends by the signal at once, and prints no traceback."""
    project.steps(MACHINE)
    project.tests(
        """
    import multiprocessing, signal, time

    def test_forks(machine, capfd):
        fork = multiprocessing.get_context("fork")
        with fork.Pool(2) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
        for number in (signal.SIGTERM, signal.SIGHUP):
            process = fork.Process(target=time.sleep, args=(60,))
            process.start()
            os.kill(process.pid, number)
            process.join(10)
            assert process.exitcode == -number
        assert capfd.readouterr() == ("", "")
    """
        + AFTER
    )
    result = project.run_apart(*args)
    result.assert_outcomes(passed=2)
    assert [call for call in project.calls if call in ENDS] == ENDS


FORKS = {
    "plain": """
        @pytest.mark.plan_step
        def forks(machine):
            fork()
    """,
    "generator": """
        @pytest.mark.plan_step
        def forks(machine):
            fork()
            yield
            fork()
    """,
    "async": """
        @pytest.mark.plan_step
        async def forks(machine):
            fork()
    """,
    "async generator": """
        @pytest.mark.plan_step
        async def forks(machine):
            await asyncio.sleep(0)
            fork()
            yield
            await asyncio.sleep(0)
            fork()
    """,
    "task": """
        async def task():
            await asyncio.sleep(0)
            fork()

        @pytest.mark.plan_step
        async def forks(machine):
            await asyncio.create_task(task())
    """,
    "callback": """
        @pytest.mark.plan_step
        async def forks(machine):
            asyncio.get_running_loop().call_soon(fork)
            asyncio.get_running_loop().call_soon(note, "after the callback")
            await asyncio.sleep(0.1)
    """,
    "left task": """
        async def task():
            try:
                await asyncio.sleep(3600)
            finally:
                fork()

        @pytest.mark.plan_step
        async def forks(machine):
            asyncio.get_running_loop().tasks = asyncio.create_task(task())
            await asyncio.sleep(0)
    """,
    "cleanup": """
        @pytest.mark.plan_step(cleanup=fork)
        def forks(machine): pass
    """,
    "async cleanup": """
        async def cleanup():
            fork()

        @pytest.mark.plan_step(cleanup=cleanup)
        def forks(machine): pass
    """,
    "deferred": """
        @pytest.mark.plan_step
        def forks(ctx, machine):
            ctx.defer(fork)
    """,
    "async deferred": """
        async def deferred():
            fork()

        @pytest.mark.plan_step
        def forks(ctx, machine):
            ctx.defer(deferred)
    """,
    "retry": """
        def seconds(state):
            fork()
            return 0

        @pytest.mark.plan_step(retries=1, retry_wait=seconds)
        def forks(ctx, machine):
            assert ctx.attempt == 2
    """,
    "listener": """
        @pytest.mark.plan_step
        def forks(machine): pass

        def pytest_plan_step_started(step):
            fork()
    """,
    "condition": """
        @pytest.mark.plan_step
        def forks(ctx, machine):
            ctx.wait_until(lambda: fork() or True)
    """,
}


@pytest.mark.parametrize(
    ("deed", "status"), [("return", 0), ("raise SystemExit(3)", 3), ("os._exit(0)", 0)]
)
@pytest.mark.parametrize("kind", FORKS)
def test_a_copy_that_a_step_forks_ends_with_its_hook(
    project: Project, kind: str, deed: str, status: int
) -> None:
    """It leaves the rest of the plan to the original process, which waits for nothing."""
    project.steps(
        "import asyncio",
        MACHINE,
        f"""
    def fork():
        if not (child := os.fork()):
            {deed}
        else:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == {status}
    """,
        FORKS[kind],
    )
    project.tests("""
    def test_it(machine, forks):
        note("test")
    """)
    check(project)
    assert project.calls.count("test") == 1
    assert project.calls.count("after the callback") == (kind == "callback")


def test_a_signal_that_comes_during_a_fork_is_not_lost(project: Project) -> None:
    """The handlers are blocked while Python forks; the run ends anyway."""
    project.steps(
        """
    import signal, threading

    def terminate():
        if IS_NEAR:
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    os.register_at_fork(before=terminate)
    IS_NEAR = []
    """,
        MACHINE,
    )
    project.tests("""
    import conftest, time

    def test_forks(machine):
        conftest.IS_NEAR.append(1)
        if not (child := os.fork()):
            return
        conftest.IS_NEAR.clear()
        os.waitpid(child, 0)
        time.sleep(60)
    """)
    check(project, status=143)
