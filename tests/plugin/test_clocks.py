"""Clocks that tests replace: freezegun, time-machine and mocks, solo and in a worker."""

from __future__ import annotations

import json

import pytest

from tests.plugin.project import Project

ARGS = pytest.mark.parametrize("args", [(), ("-n", "1", "-p", "xdist")], ids=["solo", "worker"])
HOUR = 3600.0
STEPS = """
    import subprocess

    @pytest.mark.plan_step
    def shop(ctx):
        with pytest.raises(subprocess.TimeoutExpired):
            ctx.run(["sleep", "60"], timeout="0.2s")
        ctx.sleep("0.2s")
        ctx.start(["sleep", "60"])
        return "a shop"
"""
HEAD = """
    import datetime, threading, time
    from unittest import mock
    import freezegun, time_machine

    real = {"monotonic": time.monotonic, "sleep": time.sleep}

    def waits(plan):
        begun = real["monotonic"]()
        with pytest.raises(TimeoutError):
            plan.state.wait_for("never", "0.5s")
        assert 0.4 < real["monotonic"]() - begun < 20
        assert plan.remaining() is None or 500 < plan.remaining() <= 600
"""
FROZEN = {
    "function": """
        @freezegun.freeze_time("2031-05-06")
        def test_one(shop, plan):
            assert datetime.date.today().year == 2031
            waits(plan)
    """,
    "class": """
        @pytest.fixture(scope="class")
        def in_2031():
            with freezegun.freeze_time("2031-05-06"):
                yield

        @pytest.mark.usefixtures("in_2031")
        class TestFuture:
            def test_one(self, shop, plan):
                assert datetime.date.today().year == 2031
                waits(plan)
    """,
    "session": """
        @pytest.fixture(scope="session", autouse=True)
        def in_1999():
            with freezegun.freeze_time("1999-05-06", tick=True):
                yield

        def test_one(shop, plan):
            assert datetime.date.today().year == 1999
            waits(plan)
    """,
    "no module is ignored": """
        def test_one(shop, plan, monkeypatch):
            monkeypatch.setattr(freezegun.config.settings, "default_ignore_list", [])
            with freezegun.freeze_time("2031-05-06", auto_tick_seconds=1000):
                waits(plan)
    """,
    "time-machine": """
        def test_one(shop, plan):
            for when in (0, 4e9):
                with time_machine.travel(when, tick=False):
                    assert time.time() == when
                    waits(plan)
    """,
}


@ARGS
@pytest.mark.parametrize("timeout", [(), ("-p", "pytest_timeout")], ids=["", "timeout"])
@pytest.mark.parametrize("frozen", FROZEN.values(), ids=FROZEN.keys())
def test_the_limit_is_not_reached_in_another_year(
    project: Project, frozen: str, timeout: tuple[str, ...], args: tuple[str, ...]
) -> None:
    """Tests with a frozen clock do not reach the limit, and their waits take real time."""
    project.steps(STEPS)
    project.tests(HEAD, frozen, "def test_two(shop): pass")
    result = project.run_apart("--plan-limit=10m", *timeout, *args)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=2)


@ARGS
@pytest.mark.parametrize(
    "frozen",
    ['freezegun.freeze_time("2031-05-06")', 'time_machine.travel("2031-05-06", tick=False)'],
    ids=["freezegun", "time-machine"],
)
def test_a_clock_that_is_frozen_before_the_plan_begins(
    project: Project, frozen: str, args: tuple[str, ...]
) -> None:
    """Steps and tests wait for real seconds, although the clock was frozen by a conftest."""
    project.steps("import freezegun, time_machine", f"{frozen}.start()", STEPS)
    project.tests(
        HEAD.replace("time.monotonic", "freezegun.api.real_monotonic"),
        "def test_one(shop, plan): waits(plan)",
    )
    result = project.run_apart("--plan-limit=10m", "--plan-report=plan.json", *args)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1)
    (step,) = json.loads((project.path / "plan.json").read_text())["steps"]
    assert 0.3 < step["seconds"] < 20


@ARGS
@pytest.mark.parametrize(
    "frozen", ['freezegun.freeze_time("2031-05-06")', 'mock.patch("time.monotonic")']
)
def test_a_test_that_hangs_with_a_frozen_clock_is_ended(
    project: Project, frozen: str, args: tuple[str, ...]
) -> None:
    """The limit is reached in real time, whatever the clock of the test says."""
    project.steps(STEPS)
    project.tests(
        HEAD,
        f"""
        def test_hangs(shop):
            with {frozen}:
                while True:
                    real["sleep"](0.01)
        """,
    )
    result = project.run_apart("--plan-limit=3s", *args)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *Failed: the plan's limit of 3.00s has passed"])
    assert result.duration < 30


@ARGS
def test_no_thread_of_the_plan_calls_a_mock_of_a_test(
    project: Project, args: tuple[str, ...]
) -> None:
    """Neither the limit, the beats, the journal, the logs nor the event loop of a step call it."""
    project.steps(
        STEPS,
        """
        import asyncio

        @pytest.mark.plan_step
        async def pool(shop):
            async def count():
                while True:
                    await asyncio.sleep(0.01)

            task = asyncio.create_task(count())
            yield "a pool"
            note("running" if not task.done() else task)
            task.cancel()
        """,
    )
    project.tests(
        HEAD,
        """
        NAMES = [
            "time.time", "time.monotonic", "time.perf_counter", "time.sleep", "time.time_ns",
            "os.getpid", "os.write", "threading.Event.wait", "threading.Condition.wait_for",
        ]

        @pytest.mark.parametrize("name", NAMES)
        def test_mock(pool, name):
            with mock.patch(name, side_effect=[]) as replaced:
                real["sleep"](1.3)
            assert replaced.call_count == 0
        """,
    )
    result = project.run_apart("--plan-limit=10m", *args)
    result.assert_outcomes(passed=9)
    assert project.calls == ["running"]


@ARGS
def test_a_test_that_replaces_getpid_is_no_forked_copy(
    project: Project, args: tuple[str, ...]
) -> None:
    """The run goes on, although a copy of the process would end with such a test."""
    project.steps(STEPS)
    project.tests(
        """
        def test_pid_file(shop, plan, monkeypatch):
            monkeypatch.setattr(os, "getpid", lambda: 4242)
            plan.state["key"] = shop

        def test_after(plan):
            assert plan.state["key"] == "a shop"
        """
    )
    result = project.run_apart(*args)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=2)


@ARGS
def test_reports_show_tests_with_a_frozen_clock_in_real_time(
    project: Project, args: tuple[str, ...]
) -> None:
    """A test in another year is shown at the time at which it ran."""
    project.steps(STEPS)
    project.tests(HEAD, FROZEN["class"], "def test_two(shop): pass")
    project.run_apart("--plan-report=plan.trace.json", *args).assert_outcomes(passed=2)
    trace = json.loads((project.path / "plan.trace.json").read_text())
    spans = [event for event in trace["traceEvents"] if "test_" in event["name"]]
    assert len(spans) == 2
    assert all(event["ts"] + event["dur"] < HOUR * 1e6 for event in spans)


@pytest.mark.parametrize(
    ("limit", "text"),
    [("1s", "the plan's limit of 1.00s has passed"), ("10m", "session-timeout: 1.0 sec exceeded")],
)
def test_the_earlier_of_the_limit_and_the_session_timeout_ends_the_run(
    project: Project, limit: str, text: str
) -> None:
    """Each of them uses its own clock and its own words."""
    users = "30" if limit == "1s" else "1"
    project.tests(
        """
        import time

        @pytest.mark.parametrize("number", range(100))
        def test_it(number):
            time.sleep(0.1)
        """
    )
    arguments = (f"--plan-limit={limit}", "-p", "pytest_timeout", f"--session-timeout={users}")
    result = project.run_apart(*arguments)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"!* {text} !*"])
