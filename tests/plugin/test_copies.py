"""Copies of the process: `os.fork` and `multiprocessing` in steps, fixtures and tests."""

from __future__ import annotations

import multiprocessing
import os
import signal
import textwrap

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


COLLECTING = {
    "module": ("test_forks.py", ""),
    "class": ("test_forks.py", "class TestIt:"),
    "conftest": ("sub/conftest.py", ""),
    "rootdir conftest": ("conftest.py", ""),
    "parametrization": ("test_forks.py", "def pytest_generate_tests(metafunc):"),
}


@pytest.mark.parametrize(
    "args",
    [(), ("-o", "plan_eager=true"), ("-n", "2", "-p", "xdist")],
    ids=["solo", "eager", "workers"],
)
@pytest.mark.parametrize(
    ("place", "deed", "status"),
    [
        (place, deed, status)
        for place in COLLECTING
        for deed, status in [("pass", 0), ("raise SystemExit(3)", 3), ("raise ValueError", 1)]
        if (place, deed) == ("rootdir conftest", "pass") or place != "rootdir conftest"
    ],
)
def test_a_copy_that_is_forked_during_collection_ends_at_once(
    project: Project, place: str, deed: str, status: int, args: tuple[str, ...]
) -> None:
    """It collects nothing more, provisions nothing, cleans up nothing and prints no summary."""
    project.steps(MACHINE)
    file, head = COLLECTING[place]
    fork = f"""
    child = os.fork()
    if not child:
        note("copy")
        {deed}
    else:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == {status}
    """
    code = textwrap.dedent(fork)
    if head:
        code = head + "\n" + textwrap.indent(code, "    ")
    path = project.path / file
    path.parent.mkdir(exist_ok=True)
    before = path.read_text() if path.exists() else "import os\nfrom calls import note\n"
    path.write_text(before + code + "\n\ndef test_it(): pass\n")
    project.tests(AFTER, name="sub/test_last.py")
    result = check(project, *args)
    assert result.parseoutcomes()["passed"] == (1 if "conftest" in place else 2)
    assert project.calls.count("after") == 1
    assert project.calls.count("copy") >= 1


SHARED = """
    @pytest.mark.plan_step
    def unneeded(): return 1

    @pytest.fixture
    def in_copy():
        '''Call functions in a copy; return their values, or their errors, as text.'''
        def call(*functions):
            reader, writer = os.pipe()
            if not (child := os.fork()):
                for function in functions:
                    try:
                        text = repr(function())
                    except BaseException as error:
                        text = f"{type(error).__name__}: {error}"
                    os.write(writer, f"{text}\\n".encode())
                os._exit(0)
            os.close(writer)
            assert os.waitpid(child, 0)[1] == 0
            with open(reader) as file:
                return file.read().splitlines()
        return call
"""


@pytest.mark.parametrize("args", [(), ("-n", "1", "-p", "xdist")], ids=str)
def test_a_copy_that_a_test_forks_reads_the_values_of_its_steps_only(
    project: Project, args: tuple[str, ...]
) -> None:
    """Every other read and every write of the State is refused, at once."""
    project.steps(MACHINE, SHARED)
    project.tests("""
    def test_first(unneeded):
        pass

    def test_reads(plan, machine, in_copy, request):
        plan.state["key"] = 1
        with plan.state.lock("held"):
            values = in_copy(
                lambda: plan.state["machine"],
                lambda: plan.state.get("machine"),
                lambda: request.getfixturevalue("machine"),
                lambda: plan.need("machine"),
            )
            assert values == [repr(machine)] * 3 + ["None"]
            refused = in_copy(
                lambda: plan.state["key"],
                lambda: plan.state.get("missing"),
                lambda: "key" in plan.state,
                lambda: len(plan.state),
                lambda: list(plan.state),
                lambda: plan.state.snapshot(),
                lambda: plan.state.wait_for("key"),
                lambda: plan.state.wait_for("missing", 60),
                lambda: plan.state.update(key=2),
                lambda: plan.state.update(machine=2),
                lambda: plan.state.pop("key"),
                lambda: plan.state.swap("key", 2),
                lambda: plan.state.compare_and_swap("key", 1, 2),
                lambda: plan.state.compare_and_delete("key", 1),
                lambda: plan.state.setdefault("new", 1),
                lambda: plan.state.lock("other").__enter__(),
            )
            assert {text.partition(":")[0] for text in refused} == {"StateError"}, refused
            assert "fork" in refused[0]
            assert in_copy(lambda: plan.state) == ["State(...)"]
        assert plan.state["key"] == 1 and "new" not in plan.state

    @pytest.mark.plan("machine")
    def test_reads_what_it_needs(plan, in_copy):
        read, refused = in_copy(
            lambda: plan.state["machine"] > 0, lambda: plan.state["unneeded"]
        )
        assert read == "True" and refused.startswith("StateError")

    @pytest.mark.plan("machine")
    def test_leaves_a_lock(plan):
        with plan.state.lock("held"):
            if not (child := os.fork()):
                return
            assert os.waitpid(child, 0)[1] == 0
    """)
    # The fixture `plan` alone needs all steps; the mark narrows that.
    source = (project.path / "test_it.py").read_text()
    mark = '@pytest.mark.plan("machine")'
    (project.path / "test_it.py").write_text(
        source.replace("def test_reads(", f"{mark}\ndef test_reads(")
    )
    result = project.run_apart(*args)
    result.assert_outcomes(passed=4)
    assert result.duration < LONGEST


def test_a_copy_that_a_step_forks_cannot_use_its_ctx(project: Project) -> None:
    """It can neither start programs nor register what must be undone; the error says why."""
    project.steps(
        SHARED.replace("pytest.fixture", "pytest.mark.plan_step"),
        """
    @pytest.mark.plan_step
    def refused(ctx, state, in_copy):
        state["key"] = 1
        texts = in_copy(
            lambda: ctx.run(["true"]),
            lambda: ctx.start(["true"]),
            lambda: ctx.defer(note, "deferred"),
            lambda: ctx.setenv("NAME", "value"),
            lambda: ctx.free_port(),
            lambda: ctx.log("text"),
            lambda: ctx.check(),
            lambda: ctx.sleep(60),
            lambda: ctx.wait_until(lambda: False),
            lambda: state.update(key=2),
            lambda: ctx.state["key"],
        )
        for text in texts:
            assert text.startswith("StateError: ") and "forked copy" in text, text
        assert "step 'refused'" in texts[0]
        assert len(texts) == 8, texts  # what is left ended with the function of wait_until
        return issubclass(StateError, PlanError)
    """,
    )
    project.tests("""
    def test_it(refused):
        assert refused
    """)
    project.run_apart().assert_outcomes(passed=1)
    assert "deferred" not in project.calls


def test_a_copy_of_a_worker_cannot_write_to_the_connection(project: Project) -> None:
    """Its reports do not reach the controller, which notices when the worker has ended."""
    project.steps(MACHINE)
    project.tests("""
    import signal, time

    def test_copy_reports(machine, request):
        child = os.fork()
        if not child:
            report = pytest.TestReport.from_item_and_call(
                request.node, pytest.CallInfo.from_call(lambda: 1 / 0, "call"))
            request.config.hook.pytest_runtest_logreport(report=report)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    def test_dies_and_leaves_a_copy(machine):
        if child := os.fork():
            note("child", child)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(120)
    """)
    result = project.run_apart("-n", "1", "-p", "xdist", "--max-worker-restart=0")
    child = next(call.split()[1] for call in project.calls if call.startswith("child"))
    os.kill(int(child), signal.SIGKILL)
    result.stdout.fnmatch_lines(["*worker 'gw0' crashed*"])
    assert "ZeroDivisionError" not in result.stdout.str()
    assert [call for call in project.calls if call in ENDS] == ENDS
    assert result.duration < LONGEST


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
