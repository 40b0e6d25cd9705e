"""Servers that cannot be used, break or are silent: each has one error that says what to do."""

from __future__ import annotations

import contextlib
import pickle
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.sharing.errors import ShareError, ShareSetupError, SilentError, StaleError
from pytest_plan.sharing.model import Kind, News, Row
from pytest_plan.sharing.stores.sqlite import SqliteStore
from pytest_plan.sharing.urls import open_store
from tests.sharing.relay import relay
from tests.sharing.runs import join
from tests.sharing.servers import (
    PASSWORD,
    QUOTED,
    Program,
    free_port,
    pgbouncer,
    postgresql_server,
    redis_server,
)

SERVERS = ["redis", "postgresql"]


def refused(url: str, folder: Path) -> str:
    """Return the message with which a store cannot be opened; it is the only error."""
    with pytest.raises(ShareSetupError) as caught:
        open_store(url, folder, patience=2.0)
    text = str(caught.value)
    assert caught.value.__cause__ is None
    assert PASSWORD not in text
    assert QUOTED not in text
    assert "\n" not in text
    return text


@contextlib.contextmanager
def sql(url: str) -> Iterator[Any]:
    """Connect to a database as a user."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("url", SERVERS, indirect=True)
def test_a_server_that_does_not_answer_or_refuses(url: str, tmp_path: Path) -> None:
    """Without a server, or with a wrong password, the message has the server and the cure."""
    port = url.rpartition(":")[2].partition("/")[0]
    free = str(free_port())
    text = refused(url.replace(f":{port}", f":{free}"), tmp_path)
    assert f"127.0.0.1:{free}/" in text
    assert "refused" in text.lower()
    assert text.endswith(
        "check the URL, and that the server is running and can be reached from here"
    )
    text = refused(url.replace(QUOTED, "sesame"), tmp_path)
    assert f"127.0.0.1:{port}/" in text
    assert "sesame" not in text
    assert text.endswith("check the user and the password in the URL")


def test_urls_that_name_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad URLs and missing libraries are told before anything is connected to."""
    assert refused("http://u:p@h/", tmp_path) == (
        "the URL of --plan-share begins with 'http'; use local, redis://host:6379, "
        "rediss://host:6379, or postgresql://user@host:5432/database"
    )
    assert refused("here", tmp_path).startswith("--plan-share is no URL; use local,")
    for url in (f"redis://:{PASSWORD}@h/0", "redis://h:port/0", "redis://:12#ss/word@h/0"):
        text = refused(url, tmp_path)
        assert text.startswith("the URL of --plan-share has no valid host or port; write it as ")
        assert "word@" not in text
    for library, url in (("redis", "redis://h"), ("psycopg", "postgresql://h/d")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)
            with pytest.raises(ShareSetupError) as caught:
                open_store(url, tmp_path)
        assert f"needs the library {library}" in str(caught.value)
        assert str(caught.value).endswith("pip install 'pytest-plan[share]'")


def test_redis_that_evicts_or_replicates(redis_program: Program, tmp_path: Path) -> None:
    """An eviction policy and a replica are refused; so is a user without rights."""
    import redis

    with redis_server("maxmemory-policy", "allkeys-lru") as evicting:
        text = refused(evicting.url, tmp_path)
        assert "(maxmemory-policy allkeys-lru)" in text
        assert "set maxmemory-policy to noeviction" in text
        with redis.Redis.from_url(evicting.url) as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.execute_command("REPLICAOF", "127.0.0.1", str(redis_program.port))
            assert "read-only replica; use the URL of the primary" in refused(
                evicting.url, tmp_path
            )
            client.execute_command("REPLICAOF", "NO", "ONE")
            client.acl_setuser("ci", enabled=True, passwords="+pw", commands=["+info", "+evalsha"])
        text = refused(evicting.url.replace(f":{QUOTED}", "ci:pw"), tmp_path)
        assert "does not give its user the rights that sharing needs" in text
        assert "ACL SETUSER name ~pytest-plan:* resetchannels &pytest-plan:* +@all" in text


def test_the_advised_rights_suffice_in_redis(
    redis_program: Program, tmp_path: Path, name: str
) -> None:
    """The rule of the message lets a user share, and nothing else of the server be reached."""
    import redis

    with redis.Redis.from_url(redis_program.url) as client:
        rule = "~pytest-plan:* resetchannels &pytest-plan:* +@all -@dangerous +info"
        client.execute_command("ACL", "SETUSER", "ci", "on", ">pw", *rule.split())
    store = open_store(redis_program.url.replace(f":{QUOTED}", "ci:pw"), tmp_path)
    listener = store.listen(name)
    access = join(store, name).access
    store.publish(access, [Row(Kind.JOURNAL, "1", "{}")])
    assert name in store.names()
    assert listener.wait(10.0) is not None
    listener.close()
    store.shut()


def test_postgresql_without_rights_or_read_only(
    postgresql_program: Program, tmp_path: Path, name: str
) -> None:
    """A user who may not create or write tables, and a read-only server, are refused."""
    url = postgresql_program.url
    base, _, _ = url.rpartition("/")
    poor = f"{base}/rights".replace(f"postgres:{QUOTED}", "poor:pw")
    with sql(url) as admin:
        admin.execute("CREATE DATABASE rights")
        admin.execute("CREATE ROLE poor LOGIN PASSWORD 'pw'")
        text = refused(poor, tmp_path)
        assert "does not give its user the rights that sharing needs" in text
        assert "grant CREATE on the database" in text
        open_store(f"{base}/rights", tmp_path).shut()
        with sql(f"{base}/rights") as owner:
            owner.execute("GRANT USAGE ON SCHEMA pytest_plan TO poor")
            owner.execute("GRANT SELECT ON ALL TABLES IN SCHEMA pytest_plan TO poor")
            assert "INSERT on pytest_plan.plan_environment" in refused(poor, tmp_path)
            owner.execute("GRANT ALL ON ALL TABLES IN SCHEMA pytest_plan TO poor")
        store = open_store(poor, tmp_path)
        access = join(store, name).access
        assert store.put(access, "k", "1", 0)
        store.shut()
        admin.execute("CREATE DATABASE still")
        admin.execute("ALTER DATABASE still SET default_transaction_read_only = on")
        assert "is read-only, such as a replica; use the URL of the primary" in refused(
            f"{base}/still", tmp_path
        )
        assert "check the database and the user" in refused(f"{base}/nowhere", tmp_path)


def test_data_of_another_version_is_refused(
    redis_program: Program, postgresql_program: Program, tmp_path: Path, name: str
) -> None:
    """An environment, tables or a file of another version are one error that says so."""
    import redis

    store = open_store(redis_program.url, tmp_path)
    with redis.Redis.from_url(redis_program.url) as client:
        client.hset(f"pytest-plan:{{{name}}}:environment", "record", '{"format": 99}')
    for call in (lambda: join(store, name), lambda: store.view(name)):
        with pytest.raises(ShareSetupError) as caught:
            call()
        assert "written by another version of pytest-plan (format 99, this version uses 1)" in str(
            caught.value
        )
    store.shut()
    base, _, _ = postgresql_program.url.rpartition("/")
    with sql(postgresql_program.url) as admin:
        admin.execute("CREATE DATABASE versions")
    open_store(f"{base}/versions", tmp_path).shut()
    with sql(f"{base}/versions") as owner:
        owner.execute("UPDATE pytest_plan.format SET format = 99")
    assert "tables of another version of pytest-plan (format 99" in refused(
        f"{base}/versions", tmp_path
    )
    open_store("local", tmp_path).shut()
    file = tmp_path / "shared" / "store.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "made by another version of pytest-plan (format 99" in refused("local", tmp_path)
    file.write_bytes(b"no database at all, but text" * 99)
    with pytest.raises(ShareSetupError, match="remove the file, or set plan_dir"):
        open_store("local", tmp_path)


@pytest.mark.engines
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_pgbouncer_is_refused_unless_it_pools_sessions(
    postgresql_program: Program, tmp_path: Path, name: str, mode: str
) -> None:
    """PgBouncer in transaction mode, which loses notifications, is refused; session mode works."""
    with pgbouncer(postgresql_program, mode) as url:
        if mode == "transaction":
            assert "is PgBouncer in transaction mode" in refused(url, tmp_path)
            return
        store = open_store(url, tmp_path)
        listener = store.listen(name)
        join(store, name)
        assert listener.wait(10.0) is not None
        listener.close()
        store.shut()


@pytest.mark.parametrize("url", SERVERS, indirect=True)
def test_a_write_whose_answer_is_lost_is_not_repeated(url: str, tmp_path: Path, name: str) -> None:
    """If the connection breaks after the server has written, the client gets the first answer."""
    port = int(url.rpartition(":")[2].partition("/")[0])
    with relay(port) as between:
        store = open_store(url.replace(f":{port}", f":{between.port}"), tmp_path)
        access = join(store, name).access
        for number in range(12):
            before = between.connections
            version = store.read(access, Kind.STATE, "n")
            between.swallow = True
            assert store.put(access, "n", str(number), version.version if version else 0)
            assert not between.swallow
            assert between.connections > before
            row = store.read(access, Kind.STATE, "n")
            assert row is not None
            assert row.text == str(number)
        sent = between.sent
        store.read(access, Kind.STATE, "n")
        assert between.sent == sent + 1  # a read takes one round trip
        store.shut()


@pytest.mark.parametrize("url", SERVERS, indirect=True)
def test_a_server_that_is_silent(url: str, tmp_path: Path, name: str) -> None:
    """A server that accepts but does not answer is an error with its name and the seconds."""
    port = int(url.rpartition(":")[2].partition("/")[0])
    with relay(port) as between:
        store = open_store(url.replace(f":{port}", f":{between.port}"), tmp_path, patience=1.5)
        access = join(store, name).access
        listener = store.listen(name)
        between.silent = True
        begun = SystemClock.now()
        with pytest.raises(SilentError) as caught:
            store.put(access, "k", "1", None)
        assert 1.0 < caught.value.seconds <= SystemClock.now() - begun < 20.0
        assert caught.value.server == store.server
        assert str(caught.value).startswith(f"{store.server} has not answered for ")
        assert PASSWORD not in str(caught.value)
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (str(copy), copy.seconds) == (str(caught.value), caught.value.seconds)
        between.silent = False
        between.cut()
        assert store.put(access, "k", "1", None)
        news: list[News | None] = [listener.wait(1.0) for _ in range(4)]
        assert any(one is not None and one.is_everything for one in news)
        listener.close()
        store.shut()


def test_a_connection_that_breaks_behind_a_notification(
    redis_program: Program, tmp_path: Path, name: str
) -> None:
    """A listener whose server dies after it has received something waits, without an error."""
    url, port = redis_program.url, redis_program.port
    store = open_store(url, tmp_path)
    access = join(store, name).access
    with relay(port) as between:
        behind = open_store(url.replace(f":{port}", f":{between.port}"), tmp_path)
        listener = behind.listen(name)
        sent = between.received
        store.notify(access, "k")
        while between.received == sent:
            SystemClock.sleep(0.01)
        between.end()
        assert [listener.wait(0.1) for _ in range(3)][1:] == [None, None]
        listener.close()
    behind.shut()
    store.shut()


def test_many_runs_create_the_tables_at_once(postgresql_program: Program, tmp_path: Path) -> None:
    """The first runs that use a database can begin at the same time."""
    base, _, _ = postgresql_program.url.rpartition("/")
    with sql(postgresql_program.url) as admin, ThreadPoolExecutor(6) as threads:
        for number in range(5):
            admin.execute(f"CREATE DATABASE fresh{number}")
            url = f"{base}/fresh{number}"
            for store in threads.map(lambda one: open_store(one, tmp_path), [url] * 6):
                store.shut()


def test_a_server_that_restarts(tmp_path: Path, name: str) -> None:
    """After a restart the store goes on; without its data, the environment is unknown."""
    with redis_server() as server:
        store = open_store(server.url, tmp_path)
        access = join(store, name).access
        listener = store.listen(name)
        server.restart()  # it has saved nothing
        with pytest.raises(StaleError, match="or the server has lost its data") as caught:
            store.renew(access)
        assert caught.value.current is None
        with pytest.raises(StaleError):
            store.read(access, Kind.STATE, "k")
        assert join(store, name).view.environment.epoch == 1
        assert _is_told(listener)
        store.shut()


def test_postgresql_that_restarts_or_stops(tmp_path: Path, name: str) -> None:
    """PostgreSQL keeps its data over a restart; calls wait for one that is stopped."""
    with postgresql_server() as server:
        store = open_store(server.url, tmp_path, patience=20.0)
        access = join(store, name).access
        listener = store.listen(name)
        version = store.put(access, "k", "1", None)
        server.restart()
        assert store.put(access, "k", "2", version)
        assert _is_told(listener)
        server.signal(signal.SIGSTOP)
        later = threading.Timer(1.0, server.signal, [signal.SIGCONT])
        later.start()
        row = store.read(access, Kind.STATE, "k")
        later.join()
        assert row is not None
        assert row.text == "2"
        store.shut()


def _is_told(listener: Any) -> bool:
    """Return whether a listener learns that it may have missed something."""
    limit = SystemClock.now() + 20.0
    while SystemClock.now() < limit:
        news = listener.wait(0.5)
        if news is not None and news.is_everything:
            listener.close()
            return True
    return False


def test_a_full_disk_is_told(tmp_path: Path, name: str) -> None:
    """A database that cannot grow refuses the write, with the cure, and keeps the rest."""
    store = open_store("local", tmp_path)
    assert isinstance(store, SqliteStore)
    access = join(store, name).access
    store.query("PRAGMA max_page_count = 1", [])
    with pytest.raises(ShareError, match=r"database or disk is full; free disk space, or set"):
        store.put(access, "k", "x" * 100_000, None)
    store.query("PRAGMA max_page_count = 100000", [])
    assert store.put(access, "k", "1", 0)
    store.shut()


def test_a_refused_write_is_told(redis_program: Program, tmp_path: Path, name: str) -> None:
    """A server whose memory is full, or that is a replica now, refuses a write with a reason."""
    import redis

    with redis_server() as server, redis.Redis.from_url(server.url) as client:
        store = open_store(server.url, tmp_path)
        access = join(store, name).access
        client.config_set("maxmemory", 1)
        with pytest.raises(ShareError, match=r"has refused an operation: .*OOM"):
            store.put(access, "k", "1", None)
        client.config_set("maxmemory", 0)
        client.execute_command("REPLICAOF", "127.0.0.1", str(redis_program.port))
        with pytest.raises(ShareSetupError, match="is a read-only replica"):
            store.put(access, "k", "1", None)
        client.execute_command("REPLICAOF", "NO", "ONE")
        assert store.put(access, "k", "1", 0)
        store.shut()
