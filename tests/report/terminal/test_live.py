"""The lines printed during a run, their colors, and the summary table."""

from __future__ import annotations

import re

import pytest

from pytest_plan.engine.execution.coordination import executor
from pytest_plan.report.terminal import live
from tests.plugin.project import Project, plan_lines, without_times

STEPS = """
@pytest.mark.plan_step
def db():
    print("noise")
    yield 1
    print("noise")

@pytest.mark.plan_step(retries=1, retry_wait=0)
def web_server(ctx):
    print("noise")
    if ctx.attempt == 1: raise RuntimeError("port is\\ntaken")

@pytest.mark.plan_step
def absent(): pytest.skip("not here")
"""
TESTS = "def test_it(db, web_server): pass\ndef test_absent(absent): pass"
LINES = [
    "plan: db          started",
    "plan: db          ok        T",
    "plan: web_server  started",
    "plan: web_server  retry     attempt 1 of 2 failed: RuntimeError: port is taken; retrying in T",
    "plan: web_server  ok        T  attempt 2",
    "plan: absent      started",
    "plan: absent      skipped   T  not here",
    "plan: db          cleanup ok T",
]
BROKEN = "@pytest.mark.plan_step\ndef db(): raise RuntimeError('no')"


@pytest.fixture
def several(project: Project) -> Project:
    """A project with steps that succeed, are retried and are skipped."""
    project.steps(STEPS)
    project.tests(TESTS)
    return project


def check_separate_lines(result: pytest.RunResult) -> None:
    """Check that every line of the plan begins on a new line."""
    text = "\n" + re.sub("\x1b\\[[0-9;]*m", "", result.stdout.str())
    for match in re.finditer("plan: ", text):
        assert text[match.start() - 1] == "\n"


class TestLines:
    """Without a live view, a line is printed when a step starts, and one when it ends."""

    @pytest.mark.parametrize(
        "args",
        [[], ["-v"], ["-vv"], ["-p", "no:logging"], ["--color=no"],
         ["--capture=sys"], ["-o", "console_output_style=classic"],
         ["-o", "console_output_style=times"]],
        ids=" ".join,
    )  # fmt: skip
    def test_lines_are_the_same_under_every_option(self, several: Project, args: list[str]) -> None:
        """Lines are in order, aligned and separate, with no output of steps between them."""
        result = several.run(*args)
        assert result.ret == 0
        assert plan_lines(result, starts=True) == LINES
        check_separate_lines(result)
        assert "noise" not in result.stdout.str()

    @pytest.mark.parametrize(
        "args", [[], ["-v"], ["-q"], ["-s"], ["-s", "-v"], ["--capture=tee-sys"]], ids=" ".join
    )
    def test_lines_are_the_same_in_a_separate_process(
        self, several: Project, args: list[str]
    ) -> None:
        """On real streams, lines are not mixed with progress and output."""
        result = several.run_apart(*args)
        assert result.ret == 0
        assert plan_lines(result, starts=True) == ([] if args == ["-q"] else LINES)
        assert result.stderr.str() == ""

    def test_lines_of_provisioning_come_before_the_first_test(self, several: Project) -> None:
        """Lines of provisioning come before the first test, lines of cleanup after the last."""
        several.run("-v").stdout.fnmatch_lines(
            [
                "*collected 2 items",
                "plan: db *ok*",
                "plan: absent *skipped*",
                "",
                "test_it.py::test_it PASSED*",
                "test_it.py::test_absent SKIPPED*",
                "plan: db *cleanup ok*",
                "",
                "*= plan =*",
            ]
        )

    def test_without_capture_output_of_steps_is_shown(self, several: Project) -> None:
        """-s puts the step's name before each line; `log_cli` puts it above the records."""
        several.steps(
            STEPS,
            "@pytest.mark.plan_step(needs=())\ndef talk():\n"
            "    import logging\n    logging.warning('one\\ntwo')",
        )
        several.tests(TESTS + "\ndef test_talk(talk): pass")
        result = several.run_apart("-s", "-v", "-o", "log_cli=true")
        lines = result.outlines
        noise = [line for line in lines if "noise" in line]
        assert sorted(noise) == [*["db | noise"] * 2, *["web_server | noise"] * 2]
        (at,) = (at for at, line in enumerate(lines) if "live log plan step 'talk'" in line)
        first, second = lines[at + 1 : at + 3]
        assert first.startswith("WARNING  root:conftest.py:")
        assert [line.split()[-1] for line in (first, second)] == ["one", "two"]
        check_separate_lines(result)

    def test_what_was_still_running_after_cleanup_has_a_line(self, project: Project) -> None:
        """The line names the step, the programs and their pids."""
        project.steps("""
            @pytest.mark.plan_step
            def db(ctx):
                ctx.run(["sh", "-c", "setsid sleep 60 >/dev/null 2>&1 & exit 0"])
        """)
        project.tests("def test_it(db): pass")
        result = project.run_apart()
        assert result.ret == 0
        line = r"plan: db  ended     what was still running: 'sleep' \(pid \d+\)"
        assert re.fullmatch(line, plan_lines(result)[-1])
        assert plan_lines(result)[-2] == "plan: db  cleanup ok T"
        check_separate_lines(result)

    def test_quiet_shows_only_failures(self, project: Project) -> None:
        """With -q, only failed steps and failed cleanups have a line."""
        project.steps(
            BROKEN,
            "@pytest.mark.plan_step(needs=())\ndef web():\n    yield\n    raise OSError('gone')\n"
            "@pytest.mark.plan_step(needs=())\ndef good(): pass",
        )
        project.tests("def test_it(db): pass\ndef test_web(web, good): pass")
        result = project.run("-q", "--plan-continue-on-error")
        assert sorted(plan_lines(result)) == [
            "plan: db    FAILED    T  RuntimeError: no",
            "plan: web   cleanup FAILED T  OSError: gone",
        ]
        check_separate_lines(result)

    def test_failure_is_shown_before_the_tests(self, project: Project) -> None:
        """The line of a failed step is printed as soon as it fails."""
        project.steps(BROKEN)
        project.tests("def test_it(db): pass")
        project.run("-v").stdout.fnmatch_lines(
            ["plan: db  FAILED * RuntimeError: no", "*test_it BLOCKED*", "*= ERRORS =*"]
        )

    def test_long_errors_stay_on_one_line(self, project: Project) -> None:
        """An error of several lines is printed on one line; the report has every line."""
        project.steps("@pytest.mark.plan_step\ndef db(): raise RuntimeError('one\\ntwo\\nthree')")
        project.tests("def test_it(db): pass")
        result = project.run()
        assert plan_lines(result) == ["plan: db  FAILED    T  RuntimeError: one two three"]
        result.stdout.fnmatch_lines(["E *RuntimeError: one", "E *two", "E *three"])

    def test_output_outside_the_logs_is_captured(self, project: Project) -> None:
        """The output of a step's child process is captured, and is shown if a step fails."""
        project.steps("""
        import subprocess, sys

        @pytest.mark.plan_step
        def db():
            subprocess.run([sys.executable, "-c", "print('from ' + 'a child')"], check=True)
            raise RuntimeError("no")
        """)
        project.tests("def test_it(db): pass")
        before, _, after = project.run_apart().stdout.str().partition("= ERRORS =")
        assert "from a child" not in before
        assert "from a child" in after


class TestColor:
    """Colors of the lines."""

    def test_colors(self, several: Project) -> None:
        """Success is green, retries and skipped steps are yellow, failures are red."""
        several.steps(
            STEPS, "@pytest.mark.plan_step(needs=())\ndef bad(): raise RuntimeError('no')"
        )
        several.tests(TESTS + "\ndef test_bad(bad): pass")
        result = several.run("--color=yes", "--plan-continue-on-error")
        lines = [line for line in result.outlines if line.startswith("plan: ")]

        def colors(words: str) -> set[str]:
            found = [re.findall("\x1b\\[(\\d+)m", line) for line in lines if words in line]
            assert len(found) == 1
            return set(found[0]) - {"0"}

        assert colors("attempt 2") == {"32"}
        assert colors("retry") == {"33"}
        assert colors("skipped") == {"33"}
        assert colors("FAILED") == {"31", "1"}
        assert colors("cleanup") == {"32"}

    def test_kept_steps_are_not_red(self, project: Project) -> None:
        """A step that is kept on purpose has not failed, so its row in the table is not red."""
        project.steps("@pytest.mark.plan_step\ndef db(): return 1")
        project.tests("def test_it(db): pass")
        result = project.run("--color=yes", "--plan-keep", "always")
        (row,) = (line for line in result.outlines if "kept 0" in line)
        assert "\x1b[31m" not in row
        assert project.run("--plan-cleanup").ret == 0

    def test_names_are_not_colored(self, several: Project) -> None:
        """Only the outcome and what follows it are colored."""
        result = several.run("--color=yes")
        lines = [line for line in result.outlines if line.startswith("plan: ")]
        lines = [line for line in lines if not line.endswith("started")]  # it is not colored
        assert {line.index("\x1b") for line in lines} == {len("plan: web_server  ")}

    def test_no_color(self, several: Project) -> None:
        """With --color=no there are no colors."""
        assert "\x1b" not in several.run("--color=no").stdout.str()


class TestHeartbeat:
    """The lines about a step that takes a long time."""

    SLOW = """
    import time

    waited = []

    def pytest_plan_make_listener(config):
        def hear(event):
            if type(event).__name__ == "Waiting":
                for step, seconds in event.steps:
                    note("cleaning" if event.cleaning else "running", seconds)
                    waited.append(seconds)
        return hear

    def wait(seconds):
        waited.clear()
        while max(waited, default=0) < seconds: time.sleep(0.01)

    @pytest.mark.plan_step
    def slow():
        wait(0.35)
        yield
        wait(0.35)
    """

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Shorten the intervals of the engine and the terminal."""
        monkeypatch.setattr(executor, "HEARTBEAT", 0.02)
        monkeypatch.setattr(live, "HEARTBEAT", 0.1)
        monkeypatch.setattr(live, "FIRST", 0.1)

    def test_long_step_is_mentioned_while_it_runs(self, project: Project) -> None:
        """A long step, or a long cleanup, has at most one line per heartbeat."""
        project.steps(self.SLOW)
        project.tests("def test_it(slow): pass")
        lines = plan_lines(project.run())
        running = lines.count("plan: slow  running   for T")
        cleaning = lines.count("plan: slow  cleaning up for T")
        longest = dict(call.split() for call in project.calls)  # the last call is the longest
        assert 1 <= running <= float(longest["running"]) / 0.1
        assert 1 <= cleaning <= float(longest["cleaning"]) / 0.1
        ends = ["plan: slow  ok        T", "plan: slow  cleanup ok T"]
        assert [line for line in lines if "for T" not in line] == ends
        assert lines.index(ends[0]) == running

    def test_quiet_has_no_heartbeat(self, project: Project) -> None:
        """With -q there are no heartbeat lines."""
        project.steps(self.SLOW)
        project.tests("def test_it(slow): pass")
        assert plan_lines(project.run("-q")) == []

    def test_short_step_is_not_mentioned(
        self, several: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A step that ends before the first heartbeat has no other lines."""
        monkeypatch.setattr(live, "FIRST", 60.0)
        assert plan_lines(several.run(), starts=True) == LINES


class TestTable:
    """The summary table."""

    def table(self, result: pytest.RunResult) -> list[str]:
        """Return the lines of the table with times replaced and spaces collapsed."""
        lines = result.outlines
        start = next(i for i, line in enumerate(lines) if re.fullmatch("=+ plan =+", line))
        end = next(i for i, line in enumerate(lines) if i > start and line.startswith("="))
        return [re.sub(" +", " ", without_times(line)) for line in lines[start + 1 : end]]

    def test_table(self, several: Project) -> None:
        """The table has one row per step, then the critical path."""
        assert self.table(several.run()) == [
            "step outcome duration attempts cleanup",
            "db * succeeded T succeeded T",
            "web_server * succeeded T 2 of 2",
            "absent * skipped T",
            "critical path (*): db > web_server > absent, T",
        ]

    def test_steps_that_succeeded_are_listed_on_request(self, several: Project) -> None:
        """As with tests, `-rA` lists them and shows their logs, and the default does neither."""
        result = several.run("-rA")
        lines = [re.sub(r"conftest.py:\d+", "PLACE", line) for line in result.outlines]
        begin = next(n for n, line in enumerate(lines) if "__ plan step 'db' __" in line)
        assert lines[begin + 1] == "noise"
        assert lines[begin + 2] == "noise"
        assert lines[begin + 3].startswith("The whole log: .pytest_plan/artifacts/")
        begin = lines.index("SUCCEEDED plan step 'db' (PLACE)")
        assert lines[begin + 1] == "SUCCEEDED plan step 'web_server' (PLACE)"
        assert not any("SUCCEEDED plan step 'absent'" in line for line in lines)
        several.run().stdout.no_fnmatch_line("SUCCEEDED *")

    def test_columns_are_aligned(self, several: Project) -> None:
        """Every cell is aligned with its heading."""
        lines = several.run().outlines
        head = next(line for line in lines if line.startswith("step "))
        rows = [line for line in lines if re.match(r"(db|web_server|absent) ", line)]
        assert len(rows) == 3
        for row in rows:
            assert row[head.index("outcome") - 1] == " "
            assert row[head.index("outcome")] in "s"

    def test_critical_path_is_the_chain_that_took_longest(self, project: Project) -> None:
        """Of two parallel steps, the slower one is on the critical path."""
        project.steps("""
        @pytest.mark.plan_step(needs=())
        def quick(): pass

        @pytest.mark.plan_step(needs=())
        def slow(ctx): ctx.sleep(0.05)

        @pytest.mark.plan_step
        def last(quick, slow): pass
        """)
        project.tests("def test_it(last): pass")
        lines = self.table(project.run())
        assert lines[-1] == "critical path (*): slow > last, T"
        assert [line.split()[0] for line in lines if " * " in line] == ["slow", "last"]

    def test_single_step_has_no_critical_path(self, project: Project) -> None:
        """With a single step there is no line for the critical path."""
        project.steps("@pytest.mark.plan_step\ndef db(): pass")
        project.tests("def test_it(db): pass")
        assert self.table(project.run()) == [
            "step outcome duration attempts cleanup",
            "db succeeded T",
        ]

    def test_steps_that_no_test_needs_are_left_out(self, several: Project) -> None:
        """The table lists only steps that were needed."""
        assert self.table(several.run("-k", "test_absent"))[1:-1] == [
            "db * succeeded T succeeded T",
            "web_server * succeeded T 2 of 2",
            "absent * skipped T",
        ]
        several.steps(
            STEPS.replace("def db", "def base").replace("plan_step\n", "plan_step(needs=())\n")
        )
        several.tests("def test_it(base): pass")
        assert self.table(several.run())[1:] == ["base succeeded T succeeded T"]

    def test_rows_are_colored(self, project: Project) -> None:
        """The row of a failed step is red, that of a blocked step yellow."""
        project.steps(BROKEN, "@pytest.mark.plan_step\ndef child(db): pass")
        project.tests("def test_it(child): pass")
        lines = project.run("--color=yes").outlines
        rows = {line.split()[0]: line for line in lines if re.search("failed  |blocked$", line)}
        assert any("\x1b[31m" in row for row in rows.values() if "failed" in row)
        row = next(
            line for line in lines if "child" in line and "blocked" in line and "plan:" not in line
        )
        assert row.startswith("\x1b[33m")

    def test_quiet_has_a_table_only_after_a_failure(self, several: Project) -> None:
        """With -q, the table is printed only if the plan has failed."""
        assert "= plan =" not in several.run("-q").stdout.str()
        several.steps(BROKEN)
        several.tests("def test_it(db): pass")
        assert "db failed T" in self.table(several.run("-q"))


def test_durations_list_steps_and_cleanups(several: Project) -> None:
    """`--durations` lists steps and their cleanups among the tests, and counts none of them."""
    result = several.run("--durations=0", "-vv")
    lines = [line.partition("s ")[2] for line in result.outlines if re.match(r"\d+\.\d+s ", line)]
    for name in ("db", "web_server", "absent"):
        assert lines.count(f"setup    plan step {name!r}") == 1
    assert lines.count("teardown plan step 'db'") == 1
    result.assert_outcomes(passed=1, skipped=1)


@pytest.mark.parametrize("args", [[], ["-v"], ["-x"]])
def test_there_are_no_double_blank_lines(project: Project, args: list[str]) -> None:
    """The lines of the plan add no blank lines to pytest's output."""
    project.steps(BROKEN, "@pytest.mark.plan_step(needs=())\ndef net(): yield")
    project.tests("def test_net(net): pass\ndef test_db(db): pass\ndef test_no(net): assert net")
    result = project.run("--plan-continue-on-error", *args)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "\n\n\n" not in result.stdout.str()
