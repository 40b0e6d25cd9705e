"""Kept environments: which steps are reused, which are rebuilt, and what is reported."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.plugin.project import Project, plan_lines, refuses

STEPS = """
import sys

VERSION = 1


def drop_db(value, ctx):
    note("drop", value["port"], ctx.reason)


@pytest.mark.plan_step(cleanup=drop_db)
def db(ctx, state):
    note("db")
    process = ctx.start([sys.executable, "-c", "import time; time.sleep(300)"])
    (ctx.tmp_path / "file").write_text("here")
    ctx.setenv("DATABASE_URL", "db:5432")
    state["first"] = ctx.tmp_path
    return {"port": 5432, "pid": process.pid}


def drop_schema(db):
    note("drop schema")


@pytest.mark.plan_step(cleanup=drop_schema)
def schema(db):
    note("schema", VERSION)
    return VERSION


@pytest.mark.plan_step(needs=())
def other():
    note("other")
    return "other"
"""
TESTS = """
def test_it(db, schema, other, plan):
    assert (db["port"], other) == (5432, "other")
    assert os.environ["DATABASE_URL"] == "db:5432"
    assert (plan.state["first"] / "file").read_text() == "here"
    assert plan.environment == "default"
"""
MADE = ["db", "schema 1", "other"]


@pytest.fixture
def kept(project: Project) -> Project:
    """A project with a kept environment, and with empty notes."""
    project.steps(STEPS)
    project.tests(TESTS)
    result = project.run_apart("--plan-keep", "always", "--plan-jobs", "1")
    assert result.ret == 0, result.stdout.str()
    assert sorted(project.calls) == sorted(MADE)
    _forget(project)
    return project


def _forget(project: Project) -> None:
    (project.path / "calls.txt").unlink(missing_ok=True)


def _clean(project: Project) -> pytest.RunResult:
    result = project.run("--plan-cleanup")
    assert result.ret == 0, result.stdout.str()
    return result


def _processes(project: Project) -> list[psutil.Process]:
    """Return the live processes that the project's steps started."""
    return [process for process in psutil.process_iter() if _is_program(process, project)]


def _is_program(process: psutil.Process, project: Project) -> bool:
    try:
        is_ours = process.cwd() == str(project.path)
        return is_ours and "time.sleep(300)" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def test_a_second_run_reuses_everything(kept: Project) -> None:
    """A second run reuses the first run's values, State, variables, files and processes."""
    result = kept.run_apart("--plan-reuse")
    assert result.ret == 0, result.stdout.str()
    assert kept.calls == []
    lines = plan_lines(result)
    assert "plan: db      reused    T  unchanged, its processes are running" in lines
    assert "plan: other   reused    T  unchanged, unchecked" in lines
    assert "plan: to reuse it:    pytest -p pytest_plan --plan-reuse" in lines
    _clean(kept)
    assert kept.calls == ["drop schema", "drop 5432 recovery"]


def test_workers_get_the_reused_environment(kept: Project) -> None:
    """Workers get the reused environment from the controller."""
    result = kept.run_apart("--plan-reuse", "-p", "xdist", "-n", "2")
    assert result.ret == 0, result.stdout.str()
    assert kept.calls == []
    _clean(kept)


def test_a_changed_step_is_rebuilt_with_what_needs_it(kept: Project) -> None:
    """Only the changed step and what needs it are rebuilt; their cleanup runs first."""
    path = kept.path / "conftest.py"
    path.write_text(path.read_text().replace("VERSION = 1", "VERSION = 2"))
    result = kept.run_apart("--plan-reuse")
    assert result.ret == 0, result.stdout.str()
    assert kept.calls == ["drop schema", "schema 2"]
    result.stdout.fnmatch_lines(["plan: schema is rebuilt: its code: VERSION in conftest.py:8"])
    _clean(kept)


def test_a_step_whose_process_died_is_rebuilt_with_what_needs_it(kept: Project) -> None:
    """A step whose process has died is rebuilt, as is every step that needs it."""
    for process in _processes(kept):
        process.kill()
    result = kept.run_apart("--plan-reuse", "--plan-jobs", "1")
    assert result.ret == 0, result.stdout.str()
    assert kept.calls == ["drop schema", "drop 5432 recovery", "db", "schema 1"]
    result.stdout.fnmatch_lines(["plan: db is rebuilt: its process ended"])
    _clean(kept)


NEEDED = """
import signal

SERVER = ["sh", "-c", "echo $$ >pid; exec sleep 300"]

@pytest.mark.plan_step
def db(ctx):
    note("db")
    if {is_daemon}:
        ctx.run(["setsid", "--fork", *SERVER])
    else:
        ctx.start(SERVER)

@pytest.mark.plan_step
def web(ctx, db):
    note("web")
    if {is_second}:
        os.kill(int(open("pid").read()), signal.SIGKILL)
        ctx.wait_until(lambda: False, timeout="60s")
"""


@pytest.mark.parametrize("is_daemon", [False, True])
def test_a_reused_step_whose_program_dies_fails_the_step_that_waits(
    project: Project, is_daemon: bool
) -> None:
    """The wait ends at once, and the error names the step that the earlier run has kept."""
    steps = NEEDED.replace("{is_daemon}", str(is_daemon))
    project.steps(steps.replace("{is_second}", "False"))
    project.tests("def test_it(web): pass")
    assert project.run_apart("--plan-keep", "always").ret == 0
    pid = (project.path / "pid").read_text().strip()
    project.steps(steps.replace("{is_second}", "True"))
    begun = time.monotonic()
    result = project.run_apart("--plan-reuse")
    assert time.monotonic() < begun + 45
    assert result.ret == 1
    assert project.calls == ["db", "web", "web"]  # `db` was reused
    assert (
        f"'sleep' (pid {pid}), which an earlier run has kept, has ended; "
        "it belongs to step 'db', which step 'web' needs" in " ".join(result.stdout.str().split())
    )
    _clean(project)


def test_a_program_that_is_not_watched_does_not_decide_whether_a_step_is_alive(
    project: Project,
) -> None:
    """With `watch=False` it may have ended when the step is reused."""
    project.steps("""
        @pytest.mark.plan_step
        def db(ctx):
            note("db")
            ctx.start(["sleep", "300"])
            ctx.start(["true"], watch=False).wait()
    """)
    project.tests("def test_it(db): pass")
    assert project.run_apart("--plan-keep", "always").ret == 0
    assert project.run_apart("--plan-reuse").ret == 0
    assert project.calls == ["db"]
    _clean(project)


@pytest.mark.parametrize(
    "command",
    [
        "ctx.start(['true']).wait()",
        "ctx.start(['false']).wait()",
        "process = ctx.start(['true'])\n            while process.poll() is None: pass",
        "ctx.run(['true'])",
    ],
)
def test_a_step_whose_program_was_meant_to_end_is_reused(project: Project, command: str) -> None:
    """A program that was meant to end need not run when the step is reused."""
    project.steps(f"""
        @pytest.mark.plan_step
        def db(ctx):
            note("db")
            {command}
    """)
    project.tests("def test_it(db): pass")
    assert project.run_apart("--plan-keep", "always").ret == 0
    assert project.run_apart("--plan-reuse").ret == 0
    assert project.calls == ["db"]
    _clean(project)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("return False", "its alive hook returned False"),
        ("raise OSError('no answer')", "its alive hook raised OSError: no answer"),
    ],
)
def test_a_step_that_is_not_alive_is_rebuilt(project: Project, answer: str, reason: str) -> None:
    """A step is rebuilt if its `alive` hook returns False or raises."""
    project.steps(f"""
    def ask(value):
        note("alive?", value)
        {answer}

    @pytest.mark.plan_step(alive=ask)
    def web():
        note("web")
        return 80
    """)
    project.tests("def test_it(web): assert web == 80")
    project.run_apart("--plan-keep", "always")
    result = project.run_apart("--plan-reuse")
    assert project.calls == ["web", "alive? 80", "web"]
    result.stdout.fnmatch_lines([f"plan: web is rebuilt: {reason}"])
    _clean(project)


def test_a_step_that_is_alive_is_reused(project: Project) -> None:
    """A step is reused if its `alive` hook returns anything but False."""
    project.steps("""
    def ask(value): note("alive?", value)

    @pytest.mark.plan_step(alive=ask)
    def web():
        note("web")
        return 80
    """)
    project.tests("def test_it(web): assert web == 80")
    project.run_apart("--plan-keep", "always")
    result = project.run_apart("--plan-reuse", "--plan-keep", "never")
    assert project.calls == ["web", "alive? 80"]
    assert "plan: web  reused    T  unchanged, alive" in plan_lines(result)
    assert not (project.path / ".pytest_plan" / "environments").exists()


def test_a_changed_input_rebuilds_the_step(project: Project) -> None:
    """A step is rebuilt if a file in its `inputs` has changed."""
    project.steps("""
    @pytest.mark.plan_step(inputs="*.sql")
    def schema(): note("schema")
    """)
    project.tests("def test_it(schema): pass")
    project.write("one.sql", "1")
    project.run_apart("--plan-keep", "always")
    project.run_apart("--plan-reuse")
    assert project.calls == ["schema"]
    project.write("one.sql", "2")
    result = project.run_apart("--plan-reuse")
    assert "plan: schema is rebuilt: inputs: one.sql" in plan_lines(result)
    assert project.calls == ["schema", "schema"]
    _clean(project)


class TestCommands:
    """The commands that a run prints, typed where they were printed."""

    @pytest.mark.parametrize(
        ("folder", "args"),
        [
            (".", ("suite",)),
            (".", ("-c", "suite/other.ini")),
            (".", ("--rootdir", "suite", "suite")),
            (".", ("-o", "plan_dir=elsewhere")),
            ("suite", ()),
            ("suite/deep", ("--rootdir=..", "..")),
        ],
    )
    def test_they_find_the_environment(
        self, project: Project, monkeypatch: pytest.MonkeyPatch, folder: str, args: tuple[str, ...]
    ) -> None:
        """Whatever decided the project and its `plan_dir`."""
        machine = """
        import sys
        @pytest.mark.plan_step
        def machine(ctx):
            ctx.start([sys.executable, "-c", "import time; time.sleep(60)"])
            return 1
        """
        project.steps(machine, name="suite/conftest.py")
        project.tests("def test_it(machine): pass", name="suite/test_it.py")
        project.write("suite/deep/empty.txt", "")
        project.write("suite/pytest.ini", "[pytest]")
        project.write("suite/other.ini", "[pytest]")
        monkeypatch.chdir(project.path / folder)

        def run(*args: str) -> pytest.RunResult:
            return project.pytester.run(sys.executable, "-m", "pytest", "-p", "pytest_plan", *args)

        def printed(result: pytest.RunResult, label: str) -> list[str]:
            (line,) = (one for one in result.outlines if one.startswith(f"plan: {label}"))
            return shlex.split(line.partition("pytest ")[2])

        kept = run("--plan-keep=always", *args)
        assert kept.ret == 0, kept.stdout.str()
        reused = run(*printed(kept, "to reuse it"))
        assert "plan: machine  reused    T  unchanged, its processes are running" in plan_lines(
            reused
        )
        cleaned = run(*printed(reused, "to clean it up"))
        assert cleaned.ret == 0
        cleaned.stdout.fnmatch_lines(["plan:   machine  cleanup succeeded*"])

    @pytest.mark.parametrize("quiet", ["-q", "-qq"])
    def test_one_line_is_shown_in_a_quiet_run(self, project: Project, quiet: str) -> None:
        """It says what is kept and how to clean it up."""
        project.steps("@pytest.mark.plan_step\ndef machine(): return 1")
        project.tests("def test_it(machine): assert False")
        result = project.run_apart(quiet, "--plan-keep=failed")
        command = "pytest -p pytest_plan --plan-cleanup"
        assert plan_lines(result) == [f"plan: kept: machine; to clean up: {command}"]
        _clean(project)


def test_a_step_of_a_factory_is_rebuilt_for_another_argument(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function is the same; the version that it closes over comes from the environment."""
    project.steps("""
    def server(version):
        def exec(ctx): note("server", version)
        return GenericStep(exec=exec)

    def pytest_plan_configure(plan):
        plan.add_step(server(os.environ["VERSION"]), name="server")
    """)
    project.tests("def test_it(server): pass")
    monkeypatch.setenv("VERSION", "15")
    project.run_apart("--plan-keep", "always")
    project.run_apart("--plan-reuse")
    monkeypatch.setenv("VERSION", "16")
    result = project.run_apart("--plan-reuse")
    assert project.calls == ["server 15", "server 16"]
    assert "plan: server is rebuilt: closure: version" in plan_lines(result)
    _clean(project)


def test_a_step_that_cannot_be_kept_is_cleaned_up_and_reported(project: Project) -> None:
    """A step that cannot be kept is cleaned up, and the reason is reported with a fix."""
    project.steps("""
    @pytest.mark.plan_step
    def server():
        yield 1
        note("server cleaned")

    @pytest.mark.plan_step
    def client(server):
        return 2

    @pytest.mark.plan_step(needs=())
    def opaque():
        return object()

    @pytest.mark.plan_step(needs=())
    def deferring(ctx):
        ctx.defer(lambda: note("deferred"))
    """)
    project.tests("def test_it(plan): pass")
    result = project.run_apart("--plan-keep", "always")
    lines = plan_lines(result)
    said = [line for line in lines if line.startswith("plan: server")]
    assert [line.split()[2] for line in said] == ["will", "ok", "is", "cleanup"]
    result.stdout.fnmatch_lines_random([
        "plan: server is not kept: its cleanup is the code after its yield*cleanup=FUNCTION",
        "plan: client is not kept: it needs 'server', which is not kept",
        "plan: opaque is not kept: its value cannot be recorded: a value of type 'object'*",
        "plan: deferring is not kept: it deferred a call that no other process can make*",
    ])  # fmt: skip
    assert sorted(project.calls) == ["deferred", "server cleaned"]
    assert not (project.path / ".pytest_plan" / "environments").exists()


def test_a_step_that_was_not_kept_is_made_again_for_that_reason(project: Project) -> None:
    """A run that reuses says so of a step that an earlier run could not keep."""
    project.steps("""
    @pytest.mark.plan_step
    def server():
        yield 1

    @pytest.mark.plan_step(needs=())
    def kept():
        return 2
    """)
    project.tests("def test_it(plan): pass")
    project.run_apart("--plan-keep", "always")
    assert "plan: server is rebuilt: it was not kept" in plan_lines(
        project.run_apart("--plan-reuse")
    )
    _clean(project)


@pytest.mark.parametrize(("test", "is_kept"), [("pass", False), ("assert 0", True)])
def test_keep_failed_keeps_only_failed_runs(project: Project, test: str, is_kept: bool) -> None:
    """`--plan-keep failed` keeps the environment of a failed run; a green run cleans up."""
    project.steps("@pytest.mark.plan_step(cleanup=lambda: None)\ndef db(): note('db')")
    project.tests(f"def test_it(db): {test}")
    result = project.run_apart("--plan-keep", "failed")
    assert ("plan: kept: db" in result.outlines) is is_kept
    _clean(project)


def test_a_run_resumes_after_a_failed_step(project: Project) -> None:
    """A run after a failure reuses the steps that succeeded and repeats the one that failed."""
    source = """
    @pytest.mark.plan_step
    def db(): note("db")

    @pytest.mark.plan_step
    def schema(db):
        note("schema")
        raise RuntimeError("no such table")
    """
    project.steps(source)
    project.tests("def test_it(schema): note('test')")
    assert project.run_apart("--plan-keep", "failed").ret == 1
    project.steps(source.replace('raise RuntimeError("no such table")', "pass"))
    assert project.run_apart("--plan-reuse").ret == 0
    assert project.calls == ["db", "schema", "schema", "test"]
    _clean(project)


def test_a_plain_run_mentions_the_kept_environment(kept: Project) -> None:
    """A run without `--plan-reuse` mentions the kept environment and uses its own."""
    kept.tests("def test_it(db): pass")
    result = kept.run_apart()
    command = "pytest -p pytest_plan --plan-reuse"
    assert f"plan: environment 'default' is kept; to reuse it: {command}" in result.outlines
    assert kept.calls == ["db", "drop 5432 success"]
    _clean(kept)


def test_named_environments_are_independent(project: Project) -> None:
    """Each named environment is kept, reused and cleaned up independently."""
    project.steps("@pytest.mark.plan_step\ndef db(plan_name=None): note('db')")
    project.tests("def test_it(db, plan): note(plan.environment)")
    for name in ("blue", "green"):
        project.run_apart("--plan-keep", "always", "--plan-environment", name)
    result = project.run_apart("--plan-reuse", "--plan-environment", "blue")
    assert project.calls == ["db", "blue", "db", "green", "blue"]
    command = "pytest -p pytest_plan --plan-reuse --plan-environment"
    assert f"plan: to reuse it:    {command} blue" in result.outlines
    assert f"plan: environment 'green' is kept; to reuse it: {command} green" in result.outlines
    result = _clean(project)
    result.stdout.fnmatch_lines_random(["*'blue', kept * ago", "*'green', kept * ago"])


def test_a_named_environment_in_use_is_refused(project: Project) -> None:
    """A run that names an environment in use is refused, and the message names its owner."""
    project.steps("""
    @pytest.mark.plan_step
    def db(ctx):
        note("db")
        while not os.path.exists("go"): ctx.sleep(0.05)
    """)
    project.tests("def test_it(db): pass")
    argv = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "--plan-environment", "blue"]
    with subprocess.Popen(argv, cwd=project.path, stdout=subprocess.DEVNULL) as first:
        deadline = time.monotonic() + 30
        while project.calls != ["db"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        refused = project.run_apart("--plan-environment", "blue")
        (project.path / "go").touch()
        assert first.wait(30) == 0
    refuses(refused, "'blue' is in use", str(first.pid))
    assert project.calls == ["db"]


def test_kept_programs_lead_their_own_session(kept: Project) -> None:
    """A kept program is the leader of its own session, so closing a terminal does not end it."""
    (program,) = _processes(kept)
    assert os.getsid(program.pid) == program.pid
    _clean(kept)
    assert not _processes(kept)


def test_a_reused_environment_is_cleaned_up_when_its_run_is_killed(kept: Project) -> None:
    """The reaper cleans up a reused environment when its run is killed."""
    kept.tests(f"def test_it(db): os.kill(os.getpid(), {int(signal.SIGKILL)})")
    kept.run_apart("--plan-reuse")
    deadline = time.monotonic() + 30
    while Path(kept.path / ".pytest_plan" / "environments").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert kept.calls == ["drop schema", "drop 5432 recovery"]
    assert not _processes(kept)


@pytest.mark.parametrize(("setting", "watched"), [("true", True), ("false", False)])
def test_the_reaper_can_be_turned_off(project: Project, setting: str, watched: bool) -> None:
    """With `plan_reaper = false` no reaper is started."""
    project.steps("@pytest.mark.plan_step\ndef db(): pass")
    project.tests("""
    import psutil

    def test_it(db):
        lines = [" ".join(child.cmdline()) for child in psutil.Process().children()]
        note(any("watchdog.py" in line for line in lines))
    """)
    project.run_apart("-o", f"plan_reaper={setting}")
    assert project.calls == [str(watched)]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            ["--plan-keep", "sometimes"],
            "--plan-keep: invalid value 'sometimes'; choose never, failed or always",
        ),
        (
            ["--plan-environment", "../x"],
            "--plan-environment: invalid environment name '../x'",
        ),
        (["--plan-environment", "run-1"], "--plan-environment: invalid environment name 'run-1'"),
    ],
)
def test_bad_values_are_refused(project: Project, options: list[str], text: str) -> None:
    """A bad value is refused before anything runs, and the message names its source."""
    project.steps("@pytest.mark.plan_step\ndef db(): note('db')")
    project.tests("def test_it(db): pass")
    refuses(project.run_apart(*options), text)
    assert project.calls == []
