"""A failing test shows what the logs of the steps it needs have gained since its setup."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugin.project import Project, refuses
from tests.plugin.talking import STEPS, TALK
from tests.plugin.test_forked import FORKED

_TITLE = re.compile(r"^-+ ?Captured stdout \w+ \(log of plan step '(\w+)' (.*?)\) ?-+$")


def sections(result: pytest.RunResult, others: str = "") -> list[tuple[str, list[str]]]:
    """Return the sections of step logs that the terminal has shown: the step, and the lines."""
    found: list[tuple[str, list[str]]] = []
    is_inside = False
    for line in result.outlines:
        if title := _TITLE.match(line):
            assert title[2] == f"during this test{others}"
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


SAYS = """
from talk import say

def test_it(web, db):
    say(db, os.environ["SAYS"])
    assert "fail" not in os.environ["SAYS"]
"""
# What a version wrote that did not record the files of logs.
OLD = """
if "OLD" in os.environ:
    from pytest_plan.engine.journal.journal import Journal

    planned = Journal.tree_planned

    def without_log(self, step, hook, label, how, start=None):
        how = {key: value for key, value in how.items() if key != "log"}
        return planned(self, step, hook, label, how, start)

    Journal.tree_planned = without_log
"""


@pytest.fixture
def reused(talking: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project with a kept environment, whose test lets `db` print what `SAYS` has."""
    talking.steps(STEPS, OLD)
    talking.tests(SAYS)
    monkeypatch.setenv("SAYS", "of the first run\n")
    result = talking.run_apart("--plan-keep", "always")
    assert result.ret == 0, result.stdout.str()
    yield talking
    assert talking.run_apart("--plan-cleanup").ret == 0


def output(project: Project, step: str = "db") -> Path:
    """Return the private file to which the programs of a step write."""
    said = project.run_apart("--plan-status", "--plan-json").stdout.str()
    (environment,) = json.loads(said[said.index("{") :])["environments"]
    (path,) = (Path(one["output"]) for one in environment["steps"] if one["name"] == step)
    return path


@pytest.mark.parametrize("workers", ["0", "1", "2"])
def test_the_log_of_a_reused_step_goes_on(
    reused: Project, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    """Each run shows and copies only what its own tests have caused."""
    for count in range(2):
        monkeypatch.setenv("SAYS", f"line {count} of a failure\n")
        result = reused.run_apart("--plan-reuse", "-p", "xdist", "-n", workers)
        result.assert_outcomes(failed=1)
        others = " and those of other workers" if workers == "2" else ""
        assert sections(result, others) == [("db", [f"line {count} of a failure"])]
        logs = reused.path.glob(".pytest_plan/artifacts/*/db/log.txt")
        newest = max(logs, key=lambda path: path.stat().st_mtime)
        assert newest.read_text() == f"line {count} of a failure\n"
    assert output(reused).read_text().splitlines()[1:] == [
        "of the first run", "line 0 of a failure", "line 1 of a failure"
    ]  # fmt: skip


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_reused_step_is_followed_from_where_the_run_begins(
    reused: Project, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    """What earlier runs have logged is not printed again."""
    for count in range(2):
        monkeypatch.setenv("SAYS", f"line {count}\n")
        result = reused.run_apart("--plan-reuse", "--plan-follow=db", "-p", "xdist", "-n", workers)
        assert [line for line in result.outlines if "db | " in line] == [f"db | line {count}"]


def test_a_lost_step_that_was_reused_shows_its_last_line(
    reused: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the line at once, as for a step that the run has provisioned."""
    monkeypatch.setenv("SAYS", "FATAL out of memory\n")
    said = reused.run_apart("--plan-reuse").stdout.str()
    assert re.search(r"^plan: db lost at .*, has ended; FATAL out of memory \(", said, re.MULTILINE)


def test_all_programs_of_a_reused_step_have_one_log(talking: Project) -> None:
    """A step may have started several."""
    talking.steps(
        STEPS,
        """
        @pytest.mark.plan_step
        def pair(ctx):
            return [start(ctx), start(ctx)]
        """,
    )
    talking.tests("""
        from talk import say

        def test_it(pair):
            for port in pair:
                say(port, f"of {pair.index(port)}\\n")
            assert "OK" in os.environ
    """)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("OK", "1")
        assert talking.run_apart("--plan-keep", "always").ret == 0
    result = talking.run_apart("--plan-reuse")
    assert sections(result) == [("pair", ["of 0", "of 1"])]
    assert talking.run_apart("--plan-cleanup").ret == 0


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_log_that_was_truncated_or_lost(
    reused: Project, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    """A truncated file goes on from its beginning, and a lost one is no error."""
    path = output(reused)
    path.unlink() if is_lost else os.truncate(path, 0)
    monkeypatch.setenv("SAYS", "a failure\n")
    result = reused.run_apart("--plan-reuse")
    result.assert_outcomes(failed=1)
    assert sections(result) == ([] if is_lost else [("db", ["a failure"])])
    assert "Traceback" not in result.stderr.str()


def test_an_environment_of_an_earlier_version_has_no_log(
    talking: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reused all the same."""
    monkeypatch.setenv("OLD", "1")
    talking.steps(STEPS, OLD)
    talking.tests(SAYS)
    monkeypatch.setenv("SAYS", "text\n")
    assert talking.run_apart("--plan-keep", "always").ret == 0
    monkeypatch.setenv("SAYS", "a failure\n")
    result = talking.run_apart("--plan-reuse")
    result.assert_outcomes(failed=1)
    assert sections(result) == []
    assert "reused" in result.stdout.str()
    assert talking.run_apart("--plan-cleanup").ret == 0


KNOWS = """
@pytest.mark.plan_step
def user(ctx):
    ctx.secret("hunter2-of-the-user")
    return start(ctx)

@pytest.mark.plan_step
def knows():
    from pytest_plan import Secret
    return Secret(os.environ["KNOWN"])
"""
PASSWORD = """
from talk import say

def test_it(user, knows, db):
    say(user, "password=hunter2-of-the-user\\n")
    say(db, "something\\n")
    assert "FIRST" in os.environ
"""


@pytest.mark.parametrize("is_known", [False, True])
def test_a_log_with_secrets_is_shown_only_if_this_run_knows_them(
    talking: Project, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    """A secret that only the run knew that has started the programs could not be masked."""
    talking.steps(STEPS, KNOWS)
    talking.tests(PASSWORD)
    monkeypatch.setenv("KNOWN", "something-else")
    monkeypatch.setenv("FIRST", "1")
    result = talking.run_apart("--plan-keep", "always")
    assert result.ret == 0, result.stdout.str()
    monkeypatch.delenv("FIRST")
    if is_known:
        monkeypatch.setenv("KNOWN", "hunter2-of-the-user")
    for _ in range(2):
        result = talking.run_apart("--plan-reuse")
        result.assert_outcomes(failed=1)
        shown = [("user", ["password=***"])] if is_known else []
        assert sections(result) == [("db", ["something"]), *shown]
        hidden = "plan: the programs of user may write a secret that only an earlier run knew"
        assert is_known is (hidden not in result.stdout.str())
    assert talking.run_apart("--plan-cleanup").ret == 0
    for path in talking.path.rglob("*"):
        if path.is_file() and path.suffix not in {".py", ".pyc"}:
            assert b"hunter2-of-the-user" not in path.read_bytes(), path


def test_the_file_of_a_step_that_is_rebuilt_is_removed(
    reused: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the step, while those of other steps stay; cleanup removes all of them."""
    old, other = output(reused, "web"), output(reused)
    reused.steps(STEPS.replace("def web(ctx, db):\n", "def web(ctx, db):\n        db += 0\n"))
    assert reused.run_apart("--plan-reuse").ret == 0
    assert not old.exists()
    assert other.exists()
    assert output(reused, "web") != old
    assert reused.run_apart("--plan-cleanup").ret == 0
    assert not other.parent.exists()
