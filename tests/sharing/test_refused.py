"""Runs with `--plan-share` that cannot share: one message each, and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

import pytest

from pytest_plan.engine.processes.identity import this_owner
from pytest_plan.sharing.model import Joining, Member
from pytest_plan.sharing.model import Project as Plan
from pytest_plan.sharing.urls import open_store
from tests.plugin.project import Project, refuses
from tests.plugin.surroundings import outside, project  # noqa: F401
from tests.sharing.servers import PASSWORD, QUOTED, Program, redis_server
from tests.sharing.test_servers import sql

STEPS = """
@pytest.mark.plan_step
def net(state):
    note("net")
    state["count"] = 0
    yield "net"
    note("clean net")

@pytest.mark.plan_step
def db(net):
    return eval(os.environ.get("VALUE", "'db'"))
"""
TESTS = """
def test_one(db): pass
def test_two(net): pass
def test_three(): pass
"""
NAME = "--plan-environment=build-7"


@pytest.fixture
def shared(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:  # noqa: F811
    """A project with two steps, outside of CI."""
    for name in ("GITHUB_RUN_ID", "CI_PIPELINE_ID", "BUILDKITE_BUILD_ID"):
        monkeypatch.delenv(name, raising=False)
    project.steps(STEPS)
    project.tests(TESTS)
    return project


def refused(project: Project, url: str, *texts: str, args: tuple[str, ...] = ()) -> None:  # noqa: F811
    """Check that a run is refused with one line, that no step ran, and that no secret is shown."""
    result = project.run("--plan-share", url, NAME, *args)
    refuses(result, *texts)
    said = result.stdout.str() + result.stderr.str()
    assert said.count("ERROR: ") == 1, said
    assert PASSWORD not in said
    assert QUOTED not in said
    assert project.calls == []


def test_servers_that_cannot_be_used_are_one_message(
    shared: Project, redis_program: Program, postgresql_program: Program
) -> None:
    """A server, a URL or a user that does not fit is refused before anything runs."""
    redis, postgresql = redis_program.url, postgresql_program.url
    nowhere = "check the URL, and that the server is running and can be reached from here"
    bare = f"redis://127.0.0.1:{redis_program.port}"
    refused(shared, "redis://127.0.0.1:1", "Connection refused; check", nowhere)
    refused(shared, "postgresql://127.0.0.1:1/d", "Connection refused; Is the server", nowhere)
    for url in (redis, postgresql):
        refused(shared, url.replace(QUOTED, "sesame"), "check the user and the password")
    refused(shared, bare, "cannot be used: it requires a password; check the user and")
    refused(shared, redis.replace("/0", "/99"), "DB index is out of range")
    refused(shared, redis.replace("/0", "/abc"), "'abc' is no number of a database")
    refused(shared, f"{redis}?bogus=1", f"the URL {bare}/0 cannot be used: ", "argument 'bogus'")
    refused(shared, f"{postgresql}?sslmode=require", "check sslmode in the URL")
    refused(shared, f"{postgresql}?bogus=1", 'invalid URI query parameter: "bogus"')
    refused(shared, "redis://127.0.0.1:1", nowhere, args=("-p", "xdist", "-n2"))


def test_environments_that_cannot_be_joined_are_one_message(
    shared: Project, redis_program: Program, postgresql_program: Program
) -> None:
    """An environment of another project or version is refused, and stays as it is."""
    import redis

    me = this_owner()
    member = Member(uuid.uuid4().hex, me.host, "", me.pid, me.birth, me.boot, me.namespace)
    for url in (redis_program.url, postgresql_program.url):
        store = open_store(url, shared.path)
        access = store.join("build-7", Joining(member, Plan("f", ("moon",)))).access
        refused(
            shared, url, "is used by another plan: its steps are moon; this project has net, db"
        )
        view = store.close(access)
        assert not view.members
        store.done(access)
        store.shut()
    with redis.Redis.from_url(redis_program.url) as client:
        client.hset("pytest-plan:{build-7}:environment", "record", '{"format": 99}')
        refused(shared, redis_program.url, "by another version of pytest-plan (format 99")
        client.delete("pytest-plan:{build-7}:environment")
    base, _, _ = postgresql_program.url.rpartition("/")
    with sql(postgresql_program.url) as admin:
        admin.execute("CREATE DATABASE refused")
    open_store(f"{base}/refused", shared.path).shut()
    with sql(f"{base}/refused") as owner:
        owner.execute("UPDATE pytest_plan.format SET format = 99")
    refused(shared, f"{base}/refused", "the tables of another version of pytest-plan (format 99")


def test_servers_that_could_lose_data_are_one_message(
    shared: Project, redis_program: Program, postgresql_program: Program
) -> None:
    """Eviction, a replica, a read-only database and missing rights are refused."""
    import redis

    with redis_server("maxmemory-policy", "allkeys-lru") as other:
        refused(shared, other.url, "(maxmemory-policy allkeys-lru)", "set maxmemory-policy to noev")
        with redis.Redis.from_url(other.url) as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.acl_setuser("ci", enabled=True, passwords="+pw", commands=["+info", "+evalsha"])
            refused(shared, other.url.replace(f":{QUOTED}", "ci:pw"), "the rights that sharing")
            client.execute_command("REPLICAOF", "127.0.0.1", str(redis_program.port))
        refused(shared, other.url, "is a read-only replica; use the URL of the primary server")
    base, _, _ = postgresql_program.url.rpartition("/")
    with sql(postgresql_program.url) as admin:
        admin.execute("CREATE DATABASE readonly")
        admin.execute("ALTER DATABASE readonly SET default_transaction_read_only = on")
    refused(shared, f"{base}/readonly", "is read-only, such as a replica")


def test_options_that_name_nothing_are_one_message(
    shared: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option without a value is refused, and an empty variable is like none."""
    local = ("--plan-share", "local")
    refuses(shared.run("--plan-share="), "--plan-share is empty: give it 'local' or the URL of")
    refuses(shared.run(*local, "-o", "plan_share_lease=soon"), "'soon' is not a duration")
    refuses(shared.run(*local, "--plan-share-wait=x"), "--plan-share-wait: 'x' is not a duration")
    refuses(shared.run(*local, "--plan-share-runs=0"), "'0' is not a positive integer")
    refuses(shared.run(*local, "--plan-environment= "), "invalid environment name ''")
    refused(shared, "redis", "--plan-share is no URL; use local, redis://host:6379,")
    for library, url in (("redis", "redis://h"), ("psycopg", "postgresql://h/d")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)
            refused(shared, url, f"needs the library {library}", "pip install 'pytest-plan[share]'")
    monkeypatch.setenv("PYTEST_PLAN_SHARE", "")
    result = shared.run("-v")
    assert result.ret == 0
    assert "shared environment" not in result.stdout.str()
    assert shared.calls == ["net", "clean net"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
def test_a_folder_that_cannot_be_written_is_one_message(shared: Project) -> None:
    """`local` in a read-only folder, or behind a link, is refused with what to do."""
    folder = shared.path / "plan"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,mode=700", "none", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this process may not mount a file system")
    try:
        refused(shared, "local", "Read-only file system; set plan_dir to another folder",
                args=("-o", "plan_dir=plan"))  # fmt: skip
    finally:
        subprocess.run(["umount", folder], check=True)
    (shared.path / "link").symlink_to(folder)
    refused(shared, "local", "is a symbolic link; remove it, or set plan_dir to another path",
            args=("-o", "plan_dir=link"))  # fmt: skip


def test_a_value_that_is_not_durable_is_an_error_of_its_step(
    shared: Project, redis_program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that returns such a value fails with the cure, and the others are cleaned up."""
    for value in ("object()", "'x' * 17_000_000"):
        monkeypatch.setenv("VALUE", value)
        result = shared.run("--plan-share", redis_program.url, NAME)
        said = result.stdout.str()
        assert result.ret == 1, said
        reason = "cannot be shared with other runs" if value == "object()" else "has 16.2 MB as"
        assert "plan: db   FAILED" in said
        assert f"StateError: the value of 'db' {reason}" in said
        assert "2 passed, 1 error, 1 blocked" in said
        assert "Traceback" not in said
    assert shared.calls == ["net", "clean net"] * 2


DEAD = """
import os, signal

@pytest.mark.plan_step
def dead(db):
    os.killpg(int(os.environ["SERVER"]), signal.SIGKILL)
    return "dead"
"""


def test_a_server_that_dies_while_a_step_runs(
    shared: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step fails, what was provisioned is cleaned up once, and each message is one line."""
    shared.steps(STEPS, DEAD)
    shared.tests(TESTS, "def test_four(dead): pass")
    with redis_server() as server:
        monkeypatch.setenv("SERVER", str(server.process.pid))
        result = shared.run("--plan-share", server.url, NAME, "-o", "plan_share_lease=1s")
    said = result.stdout.str() + result.stderr.str()
    assert result.ret == 1, said
    assert "Traceback" not in said, said
    assert "INTERNALERROR" not in said, said
    assert f"StateError: redis://127.0.0.1:{server.port}/0 has not answered for" in said
    assert "1 passed, 1 error, 3 blocked" in said
    assert shared.calls == ["net", "clean net"]


LOOK = """
import subprocess
from pathlib import Path

@pytest.mark.plan_step
def look(db):
    secret = Path("../secret").read_bytes()
    command = "cat /proc/[0-9]*/cmdline .pytest_plan/environments/*/*; env"
    seen = subprocess.run(["sh", "-c", command], capture_output=True).stdout
    note("seen", secret in seen, b"pytest" in seen and b"PATH=" in seen)
    raise ValueError("no")
"""


def test_the_password_in_the_url_is_shown_nowhere(
    shared: Project, redis_program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No output, report, journal, row, program or its variables have it, however it was given."""
    import redis

    secret = uuid.uuid4().hex
    shared.steps(STEPS, LOOK)
    shared.tests("def test_one(look): pass")
    shared.path.with_name("secret").write_text(secret)
    with redis.Redis.from_url(redis_program.url) as client:
        client.execute_command("ACL", "SETUSER", "ci", "on", f">{secret}", "~*", "&*", "+@all")
    url = redis_program.url.replace(f":{QUOTED}", f"ci:{secret}")
    reports = [f"--plan-report=plan.{kind}" for kind in ("json", "html", "md")]
    monkeypatch.setenv("PYTEST_PLAN_SHARE", url)
    for number, args in enumerate(([], ["--plan-share", url], ["-o", f"plan_share={url}"])):
        name = f"--plan-environment=hidden-{number}"
        result = shared.run(name, "-ra", "-vv", "--junitxml=junit.xml", *reports, *args)
        said = result.stdout.str() + result.stderr.str()
        assert result.ret == 1, said
        assert secret not in said
        assert f"redis://127.0.0.1:{redis_program.port}/0: this run provisions it" in said
        files = [file for file in shared.path.rglob("*") if file.is_file()]
        assert len(files) > 4
        assert not [file for file in files if secret.encode() in file.read_bytes()]
        monkeypatch.delenv("PYTEST_PLAN_SHARE", raising=False)
    assert shared.calls == ["net", "seen False True", "clean net"] * 3
