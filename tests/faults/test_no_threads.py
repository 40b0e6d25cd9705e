"""Row 39: the system refuses a new thread, as in a container with a limited number of processes."""

from __future__ import annotations

import pytest

from tests.engine.support.no_threads import needs_limit
from tests.faults.harness.aftermath import NO_REAPER, PLAIN, environments
from tests.faults.harness.scenario import Run, Stage, Story

# Makes the start of the plan's n-th thread fail.
LIMITED = """
import threading
from tests.engine.support.no_threads import no_threads

start = threading.Thread.start

class Limit:
    left = int(os.environ["THREADS"])

def limited(thread):
    if not thread.name.startswith("plan-"):
        return start(thread)
    Limit.left -= 1
    if Limit.left > 0 or (Limit.left < 0 and os.environ["LASTS"] == "no"):
        return start(thread)
    note("scarce", thread.name)
    with no_threads():
        start(thread)

threading.Thread.start = limited
"""
THREADS = 8  # more threads than a run without a limit starts
REASONS = ("the system refused a new thread", "cannot be written: can't start new thread")


@needs_limit
@pytest.mark.parametrize("lasts", ["no", "yes"])
def test_g1_without_a_thread_steps_fail_and_cleanups_run(stage: Stage, lasts: str) -> None:
    """Row 39: a refused thread is reported, and every step that began is undone."""
    reached: list[int] = []

    def story(run: Run, number: int) -> Story:
        conftest = (run.project / "conftest.py").read_text()
        run.write("conftest.py", conftest + LIMITED)
        run.start(*NO_REAPER, argv=PLAIN, env={"THREADS": str(number), "LASTS": lasts})
        yield run.ended
        if run.notes("scarce"):
            reached.append(number)
            run._tally.faults += len(run.notes("scarce"))
        run.judge()
        output = run.output()
        said = any(reason in output for reason in REASONS)
        run.expect(said if run.status in (1, 4) else run.status == 0, f"status {run.status}")
        run.expect("Traceback" not in output, "a traceback")
        run.expect(not environments(run), "an environment is left")

    for number in range(1, THREADS):
        stage.add(f"thread {number}", story, number)
    stage.play(2)
    assert {1, 2} <= set(reached)
    assert len(reached) < THREADS - 1
