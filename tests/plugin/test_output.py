"""Where the output of steps goes while pytest writes its own lines."""

from __future__ import annotations

import pytest

from tests.plugin.project import Project, plan_lines

# Many steps end, each with a line in the terminal, while others print continuously.
CHATTY = """
import time

def chatty(number):
    def step(ctx):
        end = time.monotonic() + 0.1 + number * 0.01
        while time.monotonic() < end:
            print("CHAT", number)
            time.sleep(0.0001)
    return pytest.mark.plan_step(needs=(), name=f"step{number}")(step)

for number in range(24):
    globals()[f"step{number}"] = chatty(number)

@pytest.mark.plan_step(needs=())
def bad():
    raise RuntimeError("no")
"""


@pytest.mark.parametrize("capture", ["fd", "sys", "tee-sys"])
def test_output_of_steps_never_mixes_with_plan_lines(project: Project, capture: str) -> None:
    """Output that a step prints while a line is written goes to the step's log and nowhere else."""
    project.steps(CHATTY)
    project.tests("def test_it(plan): pass")
    result = project.run_apart("--plan-jobs=8", "--plan-continue-on-error", f"--capture={capture}")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "CHAT" not in result.stdout.str()  # not even in the report of `bad`
    assert len([line for line in plan_lines(result) if "  ok  " in line]) == 24


def test_character_that_the_terminal_lacks_fails_no_step(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `-s` a character that the terminal cannot encode is shown as an escape."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    project.steps("@pytest.mark.plan_step\ndef db():\n    print('done \\u2713')\n    return 1")
    project.tests("def test_it(db): pass")
    result = project.run_apart("-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["db | done \\u2713"])
