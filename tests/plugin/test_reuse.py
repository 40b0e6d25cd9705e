"""Reuse never gets stuck and is never stale: what is cleaned up, made again, and given up."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from pytest_plan.engine.environments.environment import Environment
from tests.engine.support.journals import sealing
from tests.plugin.project import Project, refuses

WORKERS = pytest.mark.parametrize(
    "workers", [(), ("-p", "xdist", "-n", "2")], ids=["solo", "xdist"]
)

SERVER = """
@pytest.mark.plan_step(needs=())
def server(ctx, state):
    note("server")
    process = ctx.start(["sleep", "300"])
    with open("pid", "w") as file:
        file.write(str(process.pid))
    (ctx.tmp_path / "data").mkdir()
    ctx.setenv("SERVER", "up")
    state["shared"] = ["of the server"]
    return "url"
"""


def keep(project: Project, *args: str) -> None:
    """Keep the environment of a first run, and forget what it has noted."""
    result = project.run_apart("--plan-keep", "always", *args)
    assert result.ret == 0, result.stdout.str() + result.stderr.str()
    (project.path / "calls.txt").unlink(missing_ok=True)


def reuse(project: Project, *args: str, status: int = 0) -> str:
    """Run with `--plan-reuse`; return the output, with single spaces."""
    result = project.run_apart("--plan-reuse", *args)
    assert result.ret == status, result.stdout.str() + result.stderr.str()
    return re.sub(r" +", " ", result.stdout.str())


def clean(project: Project, status: int = 0) -> str:
    """Clean up everything; return the output."""
    result = project.run("--plan-cleanup")
    assert result.ret == status, result.stdout.str()
    return result.stdout.str()


def forget(project: Project, *steps: str, args: tuple[str, ...] = (), status: int = 0) -> str:
    """Forget steps; return the output."""
    options = [word for step in steps for word in ("--plan-forget", step)]
    result = project.run(*options, *args)
    assert result.ret == status, result.stdout.str() + result.stderr.str()
    return result.stdout.str() + result.stderr.str()


def pid(project: Project) -> int:
    """Return the process id of the server."""
    return int((project.path / "pid").read_text())


def is_running(number: int) -> bool:
    """Return whether the process is running and is no zombie."""
    try:
        status = Path(f"/proc/{number}/status").read_text()
    except OSError:
        return False
    return "\nState:\tZ" not in status


def kill(project: Project) -> None:
    """Kill the server and wait until it has ended."""
    os.kill(pid(project), signal.SIGKILL)
    while is_running(pid(project)):
        pass


@WORKERS
def test_the_cleanup_of_a_stale_step_sees_the_run_that_made_it(
    project: Project, workers: tuple[str, ...]
) -> None:
    """It gets the values, State, variables and folders of all steps; reused programs live on."""
    source = (
        SERVER
        + """
    VERSION = 1

    def drop_rows(ctx, state, server, tables, value):
        seen = os.environ.get("SERVER"), os.environ.get("TABLES"), os.environ.get("ROWS")
        file = (ctx.tmp_path / "file").read_text()
        note("drop rows", server, tables, value, *seen, file, state["shared"], state["rows made"])

    def drop_tables(ctx, state, value, server):
        seen = os.environ.get("SERVER"), os.environ.get("TABLES"), os.environ.get("ROWS")
        note("drop tables", server, value, *seen, sorted(os.listdir(ctx.tmp_path)))

    @pytest.mark.plan_step(cleanup=drop_tables)
    def tables(ctx, server):
        note("tables", VERSION)
        (ctx.tmp_path / "t").touch()
        ctx.setenv("TABLES", "t")
        return "tables"

    @pytest.mark.plan_step(cleanup=drop_rows)
    def rows(ctx, state, tables):
        (ctx.tmp_path / "file").write_text("here")
        ctx.setenv("ROWS", "r")
        state["rows made"] = 3
        return "rows"
    """.replace("\n    ", "\n")
    )
    project.steps(source)
    project.tests("def test_it(rows, plan): assert plan.state['shared'] == ['of the server']")
    keep(project, *workers)
    before = pid(project)
    project.steps(source.replace("VERSION = 1", "VERSION = 2"))
    output = reuse(project, *workers)
    assert "server reused" in output
    assert project.calls == [
        "drop rows url tables rows up t r here ['of the server'] 3",
        "drop tables url tables up t None ['t']",
        "tables 2",
    ]
    assert pid(project) == before
    assert is_running(before)
    clean(project)
    assert not is_running(before)


@WORKERS
def test_a_step_that_is_made_again_starts_clean(project: Project, workers: tuple[str, ...]) -> None:
    """Its folder is empty; its old variables and keys are gone, also for the steps that follow."""
    source = (
        SERVER
        + """
    @pytest.mark.plan_step
    def tables(ctx, state, server):
        (ctx.tmp_path / "conf.d").mkdir()
        assert "TABLES" not in os.environ
        assert state.get("tables made") is None
        ctx.setenv("TABLES", "t")
        state["tables made"] = 3
        state["shared"] = [*state["shared"], "of the tables"]

    @pytest.mark.plan_step(needs=())
    def before(state):
        return "before"

    @pytest.mark.plan_step(needs=["tables", "before"])
    def after(ctx, state):
        note("after", os.environ.get("TABLES"), state.get("tables made"), state.get("shared"))
    """.replace("\n    ", "\n")
    )
    project.steps(source)
    project.tests("""
    def test_it(after, plan):
        note("test", os.environ.get("TABLES"), plan.state.get("tables made"))
    """)
    keep(project, *workers)
    changed = source.replace('    ctx.setenv("TABLES", "t")\n', "").replace(
        '    state["tables made"] = 3\n', ""
    )
    project.steps(changed)
    output = reuse(project, *workers)
    assert "server reused" in output
    assert project.calls == [
        "after None None ['of the server', 'of the tables']", "test None None",
    ]  # fmt: skip
    clean(project)


def test_only_the_folder_of_the_step_itself_is_emptied(project: Project, tmp_path: Path) -> None:
    """A link in it is removed, but not what it leads to, nor the folder of another step."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    source = f"""
    VERSION = 1

    @pytest.mark.plan_step(needs=())
    def one(ctx):
        (ctx.tmp_path / "file").touch()
        return str(ctx.tmp_path)

    @pytest.mark.plan_step(needs=())
    def two(ctx):
        note("two", VERSION, os.listdir(ctx.tmp_path))
        os.symlink({str(tmp_path / "outside")!r}, ctx.tmp_path / "link")
    """
    project.steps(source)
    project.tests("def test_it(one, two): assert os.listdir(one) == ['file']")
    keep(project)
    project.steps(source.replace("VERSION = 1", "VERSION = 2"))
    reuse(project)
    assert project.calls == ["two 2 []"]
    assert os.listdir(tmp_path / "outside") == ["file"]
    clean(project)


def test_an_alive_hook_sees_the_run_that_made_its_step(project: Project) -> None:
    """It gets the folder, the variables and the State; none of it is lost by that."""
    project.steps("""
    def ask(ctx, state):
        assert (ctx.tmp_path / "file").read_text() == os.environ["NAME"] == state["name"]

    @pytest.mark.plan_step(alive=ask)
    def db(ctx, state):
        note("db", os.environ.get("NAME"))
        state["name"] = "db"
        (ctx.tmp_path / "file").write_text("db")
        ctx.setenv("NAME", "db")
    """)
    project.tests("def test_it(db): note(os.environ['NAME'])")
    keep(project)
    for _ in range(2):
        reuse(project)
    assert project.calls == ["db", "db"]
    clean(project)


LIVES_IN = """
def drop(value, server):
    note("drop", value, server)
    raise OSError("no route to the server")

@pytest.mark.plan_step({needs}cleanup=drop)
def tables({takes}):
    note("tables")
    return "tables"

@pytest.mark.plan_step
def rows(ctx, tables):
    note("rows")
    ctx.defer(refuse, "rows")

def refuse(name):
    note("undo", name)
    raise OSError("no rows")
"""
BY_NEED = SERVER + LIVES_IN.format(needs="", takes="server")
BY_ORDER = SERVER + LIVES_IN.format(needs="", takes="state").replace(
    "drop(value, server)", "drop(value, state)"
).replace("value, server", "value, 'url'")


@WORKERS
@pytest.mark.parametrize("source", [BY_NEED, BY_ORDER], ids=["needs", "follows"])
def test_what_was_in_a_dead_program_is_gone_with_it(
    project: Project, source: str, workers: tuple[str, ...]
) -> None:
    """Each cleanup is tried once; the failures are lines, and everything is made again."""
    project.steps(source)
    project.tests("def test_it(rows): assert os.environ['SERVER'] == 'up'")
    keep(project, *workers)
    kill(project)
    output = reuse(project, *workers)
    assert "rows gone with 'server'; its cleanup failed: OSError: no rows" in output
    assert "tables gone with 'server'; its cleanup failed: OSError: no route" in output
    assert project.calls == ["undo rows", "drop tables url", "server", "tables", "rows"]
    assert "reused" in reuse(project, *workers)
    assert len(project.calls) == 5
    kill(project)
    assert "tables  gone with 'server'" in clean(project)
    assert project.calls[5:] == ["undo rows", "drop tables url"]


def test_a_dead_need_counts_also_if_its_step_has_changed(project: Project) -> None:
    """The conftest may be edited, and an alive hook may be the one that says it is dead."""
    source = """
    VERSION = 1

    def answers(value):
        return os.path.exists("up")

    def stop(value):
        os.unlink("up")

    @pytest.mark.plan_step(alive=answers, cleanup=stop)
    def server():
        note("server", VERSION)
        open("up", "w").close()
        return "url"
    """
    project.steps(source, LIVES_IN.format(needs="", takes="server"))
    project.tests("def test_it(rows): pass")
    keep(project)
    (project.path / "up").unlink()
    project.steps(
        source.replace("VERSION = 1", "VERSION = 2"), LIVES_IN.format(needs="", takes="server")
    )
    output = reuse(project)
    assert "tables gone with 'server'" in output
    assert "server gone; its cleanup failed: FileNotFoundError" in output
    assert project.calls[-3:] == ["server 2", "tables", "rows"]
    forget(project, "tables", "rows")
    clean(project)


def test_after_a_reboot_no_process_is_trusted(project: Project) -> None:
    """A program of an earlier boot is dead, even if its pid and start time are those of another."""
    project.steps(BY_NEED)
    project.tests("def test_it(rows): pass")
    keep(project)
    before = pid(project)
    environment = Environment(project.path / ".pytest_plan", "default")
    with sealing(environment.file) as connection:
        connection.execute(
            "UPDATE undo SET data = json_set(data, '$.boot', 'earlier') WHERE kind = 'tree'"
        )
        connection.execute(
            "UPDATE environment SET value = json_set(value, '$.boot', 'earlier') "
            "WHERE key = 'owner'"
        )
    environment.release()
    try:
        output = reuse(project)
        assert "tables gone with 'server'" in output
        assert project.calls[-3:] == ["server", "tables", "rows"]
        assert is_running(before)  # it is the process of somebody else
    finally:
        os.kill(before, signal.SIGKILL)
    kill(project)
    clean(project)


FAILING = (
    SERVER
    + """
VERSION = 1

def drop(value):
    note("drop")
    raise OSError("no route to host")

@pytest.mark.plan_step(needs=(), cleanup=drop)
def bucket():
    note("bucket", VERSION)
    return "bucket"

@pytest.mark.plan_step
def objects(bucket):
    note("objects")
"""
)


@WORKERS
def test_a_failed_cleanup_blocks_its_step_and_nothing_else(
    project: Project, workers: tuple[str, ...]
) -> None:
    """The step is not made twice; the message names it, the error and the command to forget it."""
    project.steps(FAILING)
    project.tests("""
    def test_server(server): note("test")
    def test_objects(objects): note("never")
    """)
    result = project.run_apart("--plan-keep", "always", *workers)
    assert result.ret == 0
    (project.path / "calls.txt").unlink()
    project.steps(FAILING.replace("VERSION = 1", "VERSION = 2"))
    for number in (1, 2, 3, 4):
        output = reuse(project, *workers, status=1)
        assert project.calls == ["drop", "test"] * min(number, 3) + ["test"] * (number == 4)
        assert "bucket was not cleaned up: OSError: no route to host" in output
        assert re.search(r"to forget it: pytest .*--plan-forget bucket$", output, re.MULTILINE)
        assert "1 passed, 1 blocked" in output
        assert "server reused" in output
    assert "its cleanup failed 3 times and was given up" in output
    assert "bucket was not cleaned up" in clean(project, status=1)
    assert project.calls.count("drop") == 3
    forget(project, "bucket")
    clean(project)


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["solo", "xdist"])
def test_a_removed_step_whose_function_is_there_is_cleaned_up(
    project: Project, workers: tuple[str, ...]
) -> None:
    """Its `cleanup` function and its deferred calls are found by their names."""
    function = """
    def drop(value, server):
        note("drop", value, server)
    """.replace("\n    ", "\n")
    step = """
    @pytest.mark.plan_step(cleanup=drop)
    def bucket(ctx, server):
        ctx.defer(note, "deferred")
        ctx.start(["sleep", "300"])
        return "bucket"
    """.replace("\n    ", "\n")
    project.steps(SERVER, function, step)
    project.tests("@pytest.mark.plan\ndef test_it(server): pass")
    keep(project, *workers)
    project.steps(SERVER, function)
    output = reuse(project, *workers)
    assert "bucket is cleaned up: it is no longer declared" in output
    assert "plan-forget" not in output
    assert project.calls == ["drop bucket url", "deferred"]
    clean(project)


@WORKERS
def test_a_removed_step_that_cannot_be_cleaned_up_stops_nothing(
    project: Project, workers: tuple[str, ...]
) -> None:
    """It is named in each run, with the command to forget it; the exit status is the tests'."""
    project.steps(FAILING)
    project.tests("def test_it(server): note('test')\n@pytest.mark.plan\ndef test_all(): pass")
    keep(project, *workers)
    project.steps(SERVER)
    for _ in range(4):
        output = reuse(project, *workers)
        assert "bucket was not cleaned up: JournalError: its cleanup hook cannot run" in output
        assert "step 'bucket' is no longer declared" in output
        assert re.search(r"to forget it: pytest .*--plan-forget bucket$", output, re.MULTILINE)
        assert "server reused" in output
    assert project.calls == ["test"] * 4
    assert "bucket was not cleaned up" in clean(project, status=1)
    forget(project, "bucket")
    clean(project)


class TestForget:
    """`--plan-forget` ends the programs of steps and removes their records, and nothing else."""

    @pytest.fixture
    def failing(self, project: Project) -> Project:
        """A project with a kept environment, in which the cleanup of one step fails."""
        project.steps("""
        def drop(value):
            note("drop")
            raise OSError("no route to host")

        @pytest.mark.plan_step(needs=(), cleanup=drop)
        def bucket(ctx, state):
            note("bucket")
            ctx.defer(note, "deferred")
            ctx.setenv("BUCKET", "b")
            (ctx.tmp_path / "conf.d").mkdir()
            state["of bucket"] = 1
            with open("pid", "w") as file:
                file.write(str(ctx.start(["sleep", "300"]).pid))
            return {"bucket": "b-17"}

        @pytest.mark.plan_step
        def objects(bucket):
            note("objects")

        @pytest.mark.plan_step(needs=())
        def other(ctx):
            note("other")
            (ctx.tmp_path / "kept").touch()
            return str(ctx.tmp_path)
        """)
        project.tests("def test_it(objects, other): assert os.listdir(other) == ['kept']")
        keep(project)
        return project

    def test_it_ends_the_programs_and_lists_what_may_be_left(self, failing: Project) -> None:
        """No user code runs; afterwards the environment can be cleaned up."""
        before = pid(failing)
        output = forget(failing, "bucket")
        assert not is_running(before)
        assert failing.calls == []
        assert "plan: forgot 'bucket' of environment 'default'" in output
        assert f"ended 'sleep' (pid {before})" in output
        assert "not run: its cleanup hook, drop in conftest.py" in output
        assert "not run: its deferred call of note" in output
        assert """may be left; the value of the step was {"bucket": "b-17"}""" in output
        clean(failing)
        assert failing.calls == []
        assert not (failing.path / ".pytest_plan" / "environments").exists()

    @WORKERS
    def test_it_is_made_again_with_what_needs_it(
        self, failing: Project, workers: tuple[str, ...]
    ) -> None:
        """The step starts clean, and all other steps are reused."""
        forget(failing, "bucket")
        output = reuse(failing, *workers)
        assert "objects is rebuilt: it needs 'bucket'" in output
        assert "other reused" in output
        assert failing.calls == ["bucket", "objects"]
        assert "objects reused" in reuse(failing, *workers)
        forget(failing, "bucket")
        clean(failing)

    def test_several_steps_of_a_named_environment(self, failing: Project) -> None:
        """The option can be repeated; only the named environment changes."""
        blue = ("--plan-environment", "blue")
        keep(failing, *blue)
        forget(failing, "bucket", "objects", args=blue)
        clean(failing, status=1)  # the other environment
        assert failing.calls == ["drop", "deferred"]
        forget(failing, "bucket")
        clean(failing)

    def test_a_step_of_a_run_without_a_name(self, project: Project) -> None:
        """Without a name, the step is found in the environment that has it."""
        project.steps("""
        def drop(value): raise OSError("no route to host")

        @pytest.mark.plan_step(cleanup=drop)
        def bucket(): return 1
        """)
        project.tests("def test_it(bucket): pass")
        result = project.run_apart()
        assert result.ret == 1
        assert "forgot 'bucket' of environment 'run-" in forget(project, "bucket")
        clean(project)

    @pytest.mark.parametrize(
        ("args", "texts"),
        [
            (
                ["--plan-forget", "moon"],
                ["unknown step 'moon'", "bucket, other, objects (environment 'default')"],
            ),
            (
                ["--plan-forget", "bucket", "--plan-environment", "blue"],
                ["--plan-environment: there is no environment 'blue'", "default"],
            ),
            (["--plan-forget", "bucket", "--plan-cleanup"], ["cannot be used together"]),
            (["--plan-forget", ""], ["--plan-forget: the name of a step is missing"]),
            (["--plan-forget", "bucket", "--plan-environment", " "], ["--plan-environment: "]),
        ],
    )
    def test_what_is_unknown_is_refused(
        self, failing: Project, args: list[str], texts: list[str]
    ) -> None:
        """The message lists what there is; nothing is changed."""
        refuses(failing.run_apart(*args), *texts)
        assert is_running(pid(failing))
        forget(failing, "bucket")
        clean(failing)

    def test_an_environment_in_use_is_refused(self, failing: Project) -> None:
        """The message names the process that owns the environment."""
        failing.tests("""
        import subprocess, sys

        def test_it(bucket):
            argv = [sys.executable, "-m", "pytest", "-p", "pytest_plan", "--plan-forget", "bucket"]
            done = subprocess.run(argv, capture_output=True, text=True)
            assert done.returncode == 4, done.stdout
            note(f"is in use by process {os.getpid()}" in done.stderr)
        """)
        reuse(failing)
        assert failing.calls == ["True"]
        assert is_running(pid(failing))
        forget(failing, "bucket")
        clean(failing)

    def test_a_broken_conftest_does_not_matter(self, failing: Project) -> None:
        """It needs no code of the project."""
        path = failing.path / "conftest.py"
        source = path.read_text()
        path.write_text("def broken(:")
        assert "forgot 'bucket'" in forget(failing, "bucket")
        path.write_text(source)
        clean(failing)


def test_cleanup_of_a_named_environment_touches_no_other(project: Project) -> None:
    """Without a name, `--plan-cleanup` cleans up all environments."""
    project.steps("""
    def drop(value): note("drop", value)

    @pytest.mark.plan_step(cleanup=drop)
    def db(config): return config.option.plan_environment
    """)
    project.tests("def test_it(db): pass")
    for name in ("blue", "green", "red"):
        keep(project, "--plan-environment", name)
    result = project.run("--plan-cleanup", "--plan-environment", "green")
    assert result.ret == 0
    assert "plan: nothing is left of environment 'green'" in result.outlines
    assert project.calls == ["drop green"]
    clean(project)
    assert sorted(project.calls) == ["drop blue", "drop green", "drop red"]


@pytest.mark.parametrize("name", ["", " ", "a b", "-x", "run-1"])
@pytest.mark.parametrize("options", [["--plan-keep", "always"], []])
def test_an_unusable_name_is_refused(project: Project, name: str, options: list[str]) -> None:
    """A blank name comes from an empty variable in CI; it never means another environment."""
    project.steps("@pytest.mark.plan_step\ndef db(): note('db')")
    project.tests("def test_it(db): pass")
    result = project.run_apart(*options, f"--plan-environment={name}")
    refuses(result, f"--plan-environment: invalid environment name {name.strip()!r}")
    assert project.calls == []


@pytest.mark.parametrize("source", ["variable", "ini"])
def test_a_blank_name_is_refused_from_every_source(
    project: Project, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """The message names the source."""
    project.steps("@pytest.mark.plan_step\ndef db(): note('db')")
    project.tests("def test_it(db): pass")
    if source == "ini":
        project.write("pytest.ini", "[pytest]\nplan_environment =")
        named = "plan_environment in pytest.ini: "
    else:
        monkeypatch.setenv("PYTEST_PLAN_ENVIRONMENT", "")
        named = "environment variable PYTEST_PLAN_ENVIRONMENT: "
    refuses(project.run_apart("--plan-reuse"), f"{named}invalid environment name ''")
    assert project.calls == []


def test_cleanup_refuses_a_blank_name(project: Project) -> None:
    """It would otherwise clean up all environments."""
    project.steps("@pytest.mark.plan_step\ndef db(): pass")
    refuses(project.run("--plan-cleanup", "--plan-environment="), "--plan-environment: ")
