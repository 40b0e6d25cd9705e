"""What the threads of steps share, and what they do not have: random numbers and event loops."""

from __future__ import annotations

import pytest

from tests.plugin.project import Project

ARGS = pytest.mark.parametrize("args", [(), ("-n", "1", "-p", "xdist")], ids=["solo", "worker"])


@ARGS
def test_a_seed_makes_the_random_numbers_of_steps_repeatable_one_after_the_other(
    project: Project, args: tuple[str, ...]
) -> None:
    """With `--plan-jobs 1`, steps get the same numbers in each run with pytest-randomly's seed.

    A step with its own generator gets them with any number of jobs.
    """
    project.steps(
        """
        import random

        @pytest.mark.plan_step(needs=())
        def first(): note("first", random.random())

        @pytest.mark.plan_step(needs=())
        def second(): note("second", random.random())

        @pytest.mark.plan_step(needs=())
        def third(): note("third", random.Random(7).random())
        """
    )
    project.tests("def test_it(plan): pass")
    options = ("-p", "pytest_randomly", "--randomly-seed=1", *args)
    for _ in range(2):
        project.run_apart("--plan-jobs=1", *options).assert_outcomes(passed=1)
    assert project.calls[:3] == project.calls[3:]
    project.run_apart(*options).assert_outcomes(passed=1)
    assert project.calls[2] in project.calls[6:]


@ARGS
def test_a_plain_step_has_no_event_loop(project: Project, args: tuple[str, ...]) -> None:
    """`asyncio.get_event_loop` raises there; `asyncio.run` and an async step work."""
    project.steps(
        """
        import asyncio

        async def answer():
            return asyncio.get_event_loop() is asyncio.get_running_loop()

        @pytest.mark.plan_step
        def plain():
            with pytest.raises(RuntimeError, match="no current event loop"):
                asyncio.get_event_loop()
            return asyncio.run(answer())

        @pytest.mark.plan_step
        async def awaits():
            return await answer()
        """
    )
    project.tests("def test_it(plain, awaits): assert plain is awaits is True")
    project.run_apart(*args).assert_outcomes(passed=1)
