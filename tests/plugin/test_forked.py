"""Tests that run in a forked copy of the process, as with pytest-forked, solo and in workers."""

from __future__ import annotations

import os

import pytest

from tests.plugin.project import Project

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
ARGS = pytest.mark.parametrize("args", [(), ("-n", "2", "-p", "xdist")], ids=["solo", "workers"])

# pytest-forked itself does not work with every supported version of pytest.
FORKED = """
    import pickle
    from _pytest.runner import runtestprotocol

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(item, nextitem):
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in forked(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.session._setupstate.teardown_exact(nextitem)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def forked(item):
        hook, config = item.config.hook, item.config
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            reports = runtestprotocol(item, log=False)
            with open(writer, "wb") as file:
                pickle.dump([one._to_json() for one in reports], file)
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as file:
            data = file.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            text = f"the copy ended with {status}"
            return [pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")]
        return [pytest.TestReport._from_json(one) for one in pickle.loads(data)]
"""
STEPS = """
    @pytest.mark.plan_step
    def shop(ctx, state):
        ctx.setenv("SHOP_URL", "http://shop")
        state["extra"] = 5
        return "a shop"

    @pytest.mark.plan_step
    def nothing(): pass
"""
WHAT_TO_DO = (
    "a forked copy of the process .* can only read the values of the steps that the running test "
    "needs; use the plan and its State in the original process, or run the test without --forked"
)


@ARGS
def test_a_forked_test_gets_the_values_of_its_steps(
    project: Project, args: tuple[str, ...]
) -> None:
    """It also gets their environment variables, the run id and the remaining time."""
    project.steps(FORKED, STEPS)
    project.tests(
        """
        @pytest.mark.parametrize("number", range(4))
        def test_values(shop, nothing, plan, number):
            assert shop == plan.state["shop"] == plan.state.get("shop") == "a shop"
            assert nothing is None
            assert os.environ["SHOP_URL"] == "http://shop"
            assert plan.environment == f"run-{plan.run_id}"
            assert 0 < plan.remaining() < 600
        """
    )
    result = project.run_apart("--plan-limit=10m", *args)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=4)


@ARGS
def test_every_other_access_to_the_state_is_refused(
    project: Project, args: tuple[str, ...]
) -> None:
    """A write is never lost without an error, which says what to do."""
    project.steps(FORKED, STEPS)
    project.tests(
        f"""
        from pytest_plan import StateError

        OPERATIONS = [
            lambda state: state.update(key=1),
            lambda state: state.__setitem__("key", 1),
            lambda state: state.setdefault("key", 1),
            lambda state: state.swap("key", 1),
            lambda state: state.compare_and_swap("shop", "a shop", 1),
            lambda state: state.compare_and_delete("shop", "a shop"),
            lambda state: state.pop("shop"),
            lambda state: state.clear(),
            lambda state: state.__delitem__("extra"),
            lambda state: state["extra"],
            lambda state: state.get("extra"),
            lambda state: "extra" in state,
            lambda state: len(state),
            lambda state: state.snapshot(),
            lambda state: state.wait_for("extra", "10s"),
            lambda state: state.lock("name").__enter__(),
        ]

        @pytest.mark.parametrize("operation", OPERATIONS)
        def test_refused(shop, plan, operation):
            with pytest.raises(StateError, match={WHAT_TO_DO!r}):
                operation(plan.state)

        def test_unprotected(shop, plan):
            plan.state["key"] = 1
        """
    )
    result = project.run_apart(*args)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=16, failed=1)
    result.stdout.fnmatch_lines(["E *StateError: a forked copy of the process *"])


def test_a_value_that_cannot_be_pickled_is_an_error_that_says_so(project: Project) -> None:
    """In a worker, the error is the one that a test gets that is not forked."""
    project.steps(FORKED, "@pytest.mark.plan_step\ndef lines(): return (line for line in 'ab')")
    project.tests("def test_it(lines): pass")
    result = project.run_apart("-n", "1", "-p", "xdist")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *the value of 'lines', of type 'generator', cannot be *"])


@ARGS
@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("ZeroDivisionError", "E * Failed: the plan's limit of 3.00s has passed"),
        ("BaseException", "the copy ended with -9"),  # the test ignores the interruption
    ],
)
def test_the_limit_ends_a_test_in_a_copy(
    project: Project, error: str, said: str, args: tuple[str, ...]
) -> None:
    """The test fails as it does without a copy; a copy that does not stop is killed."""
    project.steps(FORKED, STEPS)
    project.tests(
        f"""
        import time

        def test_hangs(shop):
            while True:
                try:
                    time.sleep(0.01)
                except {error}:
                    pass
        """
    )
    result = project.run_apart("--plan-limit=3s", *args)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([said])
    assert result.duration < 30


def test_a_copy_that_holds_the_interpreter_lock_does_not_hang_the_run(project: Project) -> None:
    """Nothing in the copy can end it, so the run ends as with a test that does not stop."""
    project.steps(FORKED, STEPS)
    project.tests("import ctypes\ndef test_hangs(shop): ctypes.PyDLL(None).sleep(60)")
    result = project.run_apart("--plan-limit=2s")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["test_it.py::test_hangs did not end after the plan's limit *"])
    assert result.duration < 30
