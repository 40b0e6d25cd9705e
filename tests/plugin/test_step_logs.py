"""A failing test shows what the logs of the steps it needs have gained since its setup."""

from __future__ import annotations

import os
import re

import pytest

from tests.plugin.project import Project, refuses
from tests.plugin.talking import STEPS, TALK
from tests.plugin.test_forked import FORKED

_TITLE = re.compile(r"^-+ ?Captured stdout \w+ \(log of plan step '(\w+)' (.*?)\) ?-+$")


def sections(result: pytest.RunResult) -> list[tuple[str, list[str]]]:
    """Return the sections of step logs that the terminal has shown: the step, and the lines."""
    found: list[tuple[str, list[str]]] = []
    is_inside = False
    for line in result.outlines:
        if title := _TITLE.match(line):
            assert title[2] == "during this test"
            found.append((title[1], []))
        elif is_inside and not re.match("[-=_]{5}|_ _", line):
            found[-1][1].append(line)
        is_inside = bool(title) or (is_inside and not re.match("[-=_]{5}|_ _", line))
    return found


@pytest.fixture
def talking(project: Project) -> Project:
    """A project whose steps are servers that print what `say` sends."""
    project.write("talk.py", TALK)
    project.steps(STEPS)
    return project


def test_a_failing_test_shows_the_lines_since_its_setup(talking: Project) -> None:
    """Of each step that it needs, directly or not, in the order of the plan; no other test does."""
    talking.tests("""
        from talk import say

        def test_before(web, db):
            say(db, "from an earlier test\\n")

        @pytest.fixture
        def warm(db):
            say(db, "from a fixture\\n")

        def test_fails(web, plan, warm):
            say(web, "to web\\n")
            say(plan.state["db"], "to db\\nand more\\n")
            assert False

        def test_after(web): pass
    """)
    result = talking.run()
    result.assert_outcomes(passed=2, failed=1)
    assert sections(result) == [
        ("db", ["from a fixture", "to db", "and more"]),
        ("web", ["to web"]),
    ]


def test_without_new_lines_there_is_no_section(talking: Project) -> None:
    """Neither for a silent step, nor for one that the test does not need."""
    talking.tests("""
        from talk import say

        def test_fails(db): assert False
        def test_unrelated(): assert False
    """)
    result = talking.run()
    result.assert_outcomes(failed=2)
    assert sections(result) == []


def test_each_phase_shows_only_what_is_new(talking: Project) -> None:
    """A teardown that fails after the test does not repeat the lines."""
    talking.tests("""
        from talk import say

        @pytest.fixture
        def user(db):
            yield
            say(db, "while leaving\\n")
            assert False

        def test_fails(db, user):
            say(db, "while there\\n")
            assert False

        @pytest.fixture
        def broken(db):
            say(db, "while coming\\n")
            assert False

        def test_cannot_begin(broken): pass
    """)
    result = talking.run()
    result.assert_outcomes(failed=1, errors=2)
    found = [lines for _, lines in sections(result)]
    assert sorted(found) == [["while coming"], ["while leaving"], ["while there"]]


@pytest.mark.parametrize(
    "code", ["pytest.xfail('known')", "pytest.skip('not here')"], ids=["xfail", "skip"]
)
def test_expected_failures_and_skips_show_nothing(talking: Project, code: str) -> None:
    """They are not failures, and neither is a test with the mark `xfail` that fails."""
    talking.tests(f"""
        from talk import say

        def test_it(db):
            say(db, "hello\\n")
            {code}

        @pytest.mark.xfail(reason="known")
        def test_mark(db):
            say(db, "hello\\n")
            assert False
    """)
    talking.steps(
        STEPS,
        """
        def pytest_runtest_logreport(report):
            assert not any("log of plan step" in title for title, _ in report.sections)
        """,
    )
    result = talking.run("-rA", "-o", "plan_logs=always")
    assert result.ret == 0
    assert "log of plan step" not in result.stdout.str()


def test_a_test_that_should_have_failed_shows_the_lines(talking: Project) -> None:
    """With a strict `xfail`, passing is a failure, and so is another error than the expected."""
    talking.tests("""
        from talk import say

        @pytest.mark.xfail(strict=True, reason="known")
        def test_passes(db):
            say(db, "passes\\n")

        @pytest.mark.xfail(raises=OSError, reason="known")
        def test_fails(db):
            say(db, "fails\\n")
            raise ValueError
    """)
    result = talking.run()
    result.assert_outcomes(failed=2)
    assert sections(result) == [("db", ["passes"]), ("db", ["fails"])]


def test_blocked_tests_show_nothing(talking: Project) -> None:
    """They have not run; the failed step shows its own log."""
    talking.steps("""
        @pytest.mark.plan_step
        def db(ctx):
            ctx.log("starting")
            raise OSError("no db")
    """)
    talking.tests("def test_it(db): pass")
    result = talking.run("-rA")
    assert "1 blocked" in result.stdout.str()
    assert sections(result) == []


def test_secrets_are_masked(talking: Project) -> None:
    """Also one of which a part was written before the test, and one that the test made known."""
    talking.tests("""
        from pytest_plan import Secret
        from talk import say

        def test_before(db):
            say(db, "x" * 5000 + "hunter2-")

        def test_fails(db, plan):
            plan.state["password"] = Secret("hunter2-password")
            say(db, "password\\npassword=hunter2-password\\x1b[2J\\nhunter2-pass")
            assert False
    """)
    result = talking.run("--show-capture=log")
    assert sections(result) == [("db", ["***", "password=***\\x1b[2J", "***"])]


def test_a_long_gain_is_cut_to_its_end(talking: Project) -> None:
    """To 40 lines and 4 KB; the first line says where the others are."""
    talking.tests("""
        from talk import say

        def test_lines(db):
            say(db, "".join(f"line {number}\\n" for number in range(10_000)))
            assert False

        def test_bytes(db):
            say(db, "".join(f"{number} {'x' * 1000}\\n" for number in range(10)))
            assert False

        def test_line(db):
            say(db, "x" * 100_000 + "the end\\n")
            assert False
    """)
    found = [lines for _, lines in sections(talking.run())]
    heads, tails = [lines[0] for lines in found], [lines[1:] for lines in found]
    (log,) = talking.path.glob(".pytest_plan/artifacts/*/db/log.txt")
    assert heads == [f"(earlier lines are in {log.relative_to(talking.path)})"] * 3
    assert tails[0] == [f"line {number}" for number in range(9_960, 10_000)]
    assert [line[0] for line in tails[1]] == ["6", "7", "8", "9"]
    (end,) = tails[2]
    assert (end[:4], end[-8:], len(end) + 1) == ("...x", "xthe end", 4096)


def test_a_test_shows_at_most_20_kb(talking: Project) -> None:
    """However many steps it needs."""
    talking.steps(
        STEPS,
        "many = pytest.mark.plan_step(needs=())",
        *(f"@many\ndef db_{number}(ctx): return start(ctx)" for number in range(8)),
    )
    talking.tests("""
        from talk import say

        @pytest.mark.plan(*(f"db_{number}" for number in range(8)))
        def test_it(plan):
            for number in range(8):
                say(plan.state[f"db_{number}"], "x" * 99 + "\\n" * 100 + "x" * 3900)
            assert False
    """)
    found = sections(talking.run())
    assert [step for step, _ in found] == [f"db_{number}" for number in range(5)]
    assert sum(len("\n".join(lines)) for _, lines in found) <= 20 * 1024


@pytest.mark.parametrize(
    ("option", "shown"),
    [("always", ["passes", "fails"]), ("failed", ["fails"]), ("never", [])],
)
def test_when_logs_are_shown(talking: Project, option: str, shown: list[str]) -> None:
    """`plan_logs` decides whether failed tests, all tests or none show the lines."""
    talking.tests("""
        from talk import say

        def test_passes(db): say(db, "passes\\n")

        def test_fails(db):
            say(db, "fails\\n")
            assert False
    """)
    result = talking.run("-rA", "-o", f"plan_logs={option}")
    result.assert_outcomes(passed=1, failed=1)
    assert sorted(lines for _, lines in sections(result)) == sorted([line] for line in shown)


def test_a_bad_value_is_refused(talking: Project) -> None:
    """Before anything runs, with the values that can be given."""
    talking.tests("def test_it(db): pass")
    result = talking.run("-o", "plan_logs=sometimes")
    refuses(result, "plan_logs in ", "invalid value 'sometimes'; choose never, failed or always")
    assert not (talking.path / ".pytest_plan").exists()


def test_each_attempt_has_its_own_lines(talking: Project) -> None:
    """A test that is repeated shows what came during that attempt."""
    talking.tests("""
        from talk import say

        attempts = []

        def test_it(db):
            attempts.append(1)
            say(db, f"attempt {len(attempts)}\\n")
            assert False
    """)
    result = talking.run_apart("-p", "rerunfailures", "--reruns", "2", "-rR")
    result.assert_outcomes(failed=1)
    assert [lines for _, lines in sections(result)][-1] == ["attempt 3"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.parametrize("workers", ["0", "1"])
def test_tests_that_run_in_a_forked_copy(talking: Project, workers: str) -> None:
    """As with pytest-forked: each line is shown once, also in a worker."""
    talking.steps(FORKED, STEPS)
    talking.tests("""
        from talk import say

        @pytest.fixture
        def user(db):
            yield
            say(db, "while leaving\\n")
            assert False

        def test_it(db, user):
            say(db, "while there\\n")
            assert False

        def test_next(db):
            say(db, "next\\n")
            assert False
    """)
    result = talking.run_apart("-p", "xdist", "-n", workers)
    result.assert_outcomes(failed=2, errors=1)
    found = [line for _, lines in sections(result) for line in lines]
    assert sorted(found) == ["next", "while leaving", "while there"]


def test_a_test_may_replace_functions_of_the_system(talking: Project) -> None:
    """Then its failure is shown as ever, without the lines."""
    talking.tests("""
        from pathlib import Path
        from talk import say

        def refuse(*args, **kwargs):
            raise ZeroDivisionError

        def test_it(db, monkeypatch):
            say(db, "hello\\n")
            monkeypatch.setattr(Path, "open", refuse)
            assert False, "as expected"

        def test_next(db):
            say(db, "next\\n")
            assert False
    """)
    result = talking.run_apart("--tb=line")
    result.assert_outcomes(failed=2)
    assert "INTERNALERROR" not in result.stdout.str()
    assert "AssertionError: as expected" in result.stdout.str()
