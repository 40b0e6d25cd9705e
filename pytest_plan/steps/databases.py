"""Databases on a server that is running, such as one for each worker of pytest-xdist."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

from pytest_plan.engine.calls.context import Context, starter_of
from pytest_plan.engine.model.errors import PlanDefinitionError
from pytest_plan.steps.servers.postgresql import KIND
from pytest_plan.steps.servers.programs import find_program

_LONGEST_NAME = 63  # bytes; PostgreSQL cuts off the rest
_CONNECT = 10  # seconds within which the server must accept a connection
_SCHEMES = ("postgres", "postgresql")
_MAINTENANCE = "postgres"  # a database that every server has
_NAMED = "select 1 from pg_database where datname = {}"
_OWNED = f"{_NAMED} and shobj_description(oid, 'pg_database') = {{}}"


def create_database(ctx: Context, url: str, name: str, template: str | None = None) -> str:
    """Create a database on a PostgreSQL server, and return its URL. Cleanup drops it.

    Cleanup also ends the sessions in the database. It never drops a database that this call has
    not created, and a later process cleans up in place of one that was killed.

    The extra `postgres` or the program `psql` must be installed.

    Args:
        ctx: the `ctx` of the hook.
        url: the URL of a database on the server, such as the value of a `PostgreSQL` step. The user
            must be allowed to create databases.
        name: the name of the new database.
        template: the name of the database to copy, in which nobody may have a session; None means
            an empty database.

    Raises:
        PlanDefinitionError: an argument is invalid; nothing was created.
        RuntimeError: the server refuses; for example, the database exists already.
        ModuleNotFoundError: neither the extra nor `psql` is installed.
    """
    created = database_url(url, name)
    if len(name.encode()) > _LONGEST_NAME:
        raise PlanDefinitionError(
            f"create_database: the name {name!r} is longer than {_LONGEST_NAME} bytes"
        )
    if urlsplit(url).scheme.partition("+")[0] not in _SCHEMES:
        raise PlanDefinitionError(
            f"create_database: a URL must begin with 'postgresql://', not {urlsplit(url).scheme!r}"
        )
    mark = f"pytest-plan {secrets.token_hex(8)}"
    temporary = mark.replace("-", "_").replace(" ", "_")
    # A template may have no sessions, not even ours.
    base = _database_of(url)
    server = _Server(_durable(ctx, url), _MAINTENANCE if base == template else base)
    copied = f" template {_quoted(template)}" if template else ""
    ctx.log(f"create database {name}{copied}")
    try:
        # If the server does not answer, there is nothing to drop, and cleanup must not fail.
        if _execute(server, [_NAMED.format(_literal(name))]):
            raise RuntimeError(f'database "{name}" already exists')
        ctx.defer(drop_database, server.url, server.database, name, temporary, mark)
        # The database gets its name last, so that only databases with the mark are dropped.
        statements = [
            f"create database {_quoted(temporary)}{copied}",
            f"comment on database {_quoted(temporary)} is {_literal(mark)}",
            f"alter database {_quoted(temporary)} rename to {_quoted(name)}",
        ]
        _execute(server, statements)
    except RuntimeError as error:
        raise RuntimeError(f"cannot create database {name!r}: {error}") from None
    return created


def database_url(url: str, name: str) -> str:
    """Return the URL of another database on the same server.

    Args:
        url: a URL such as `postgresql://user@host:5432/shop`.
        name: the name of the other database.

    Raises:
        PlanDefinitionError: `url` is no URL with a host, or `name` is no name.
    """
    if not _is_name(name):
        raise PlanDefinitionError(f"{name!r} is not the name of a database")
    if not _is_url(url):
        raise PlanDefinitionError(
            "the URL of a database must be such as 'postgresql://user@host:5432/name'"
        )
    return urlsplit(url)._replace(path=f"/{quote(name, safe='')}").geturl()


def drop_database(url: str, database: str, name: str, temporary: str, mark: str) -> None:
    """Drop the database that `create_database` has created; do nothing if there is none.

    Args:
        url: the URL of the server, or `$` and the name of the environment variable that has it.
        database: another database on the server.
        name: the name of the database.
        temporary: its name before it was complete.
        mark: its comment.
    """
    server = _Server(url, database)
    statements = [f"drop database if exists {_quoted(temporary)} with (force)"]
    if _execute(server, [_OWNED.format(_literal(name), _literal(mark))]):
        statements.append(f"drop database if exists {_quoted(name)} with (force)")
    _execute(server, statements)


class _Server(NamedTuple):
    """The database to connect to in order to create and drop others.

    Attributes:
        url: the URL of the server, or `$` and the name of the environment variable that has it.
        database: the database.
    """

    url: str
    database: str

    def address(self) -> SplitResult:
        """Return the URL of the database, as the libraries of PostgreSQL read it.

        Raises:
            RuntimeError: the environment variable is not set.
        """
        url = os.environ.get(self.url[1:], "") if self.url.startswith("$") else self.url
        if not url:
            raise RuntimeError(f"the environment variable {self.url[1:]!r} is not set")
        return urlsplit(database_url(url, self.database))._replace(scheme="postgresql")


def _durable(ctx: Context, url: str) -> str:
    """Return the URL, or if it is secret, `$` and the variable that has it, for the journal."""
    if starter_of(ctx).masker.mask(url) == url:
        return url
    return next((f"${name}" for name, value in os.environ.items() if value.strip() == url), url)


def _execute(server: _Server, statements: Sequence[str]) -> bool:
    """Execute statements, each in a transaction of its own; return whether the last has a row.

    Raises:
        RuntimeError: the server does not answer, or a statement has failed.
        ModuleNotFoundError: there is no client.
    """
    if importlib.util.find_spec("psycopg") is not None:
        return _execute_by_psycopg(server.address(), statements)
    if (psql := _psql()) is not None:
        return _execute_by_psql(psql, server.address(), statements)
    raise ModuleNotFoundError(
        "create_database needs psycopg or psql: pip install 'pytest-plan[postgres]'"
    )


def _execute_by_psycopg(address: SplitResult, statements: Sequence[str]) -> bool:
    import psycopg

    try:
        with psycopg.connect(
            address.geturl(), autocommit=True, connect_timeout=_CONNECT
        ) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.description is not None and cursor.fetchone() is not None
    except psycopg.Error as error:
        raise RuntimeError("; ".join(str(error).split("\n"))) from None


def _psql() -> str | None:
    """Return the path of `psql`: the one in PATH, or one that belongs to a server."""
    if (path := shutil.which("psql")) is not None:
        return path
    with contextlib.suppress(FileNotFoundError):
        beside = find_program(KIND).path.with_name("psql")
        return str(beside) if beside.exists() else None
    return None


def _execute_by_psql(psql: str, address: SplitResult, statements: Sequence[str]) -> bool:
    password = unquote(address.password or "")
    place = address.netloc.rpartition("@")[2]
    user = f"{address.username}@" if address.username else ""
    url = address._replace(netloc=f"{user}{place}").geturl()  # arguments are not private
    argv = [psql, "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url]
    secret = {"PGPASSWORD": password} if password else {}
    done = subprocess.run(  # noqa: S603 - a program that the user has installed
        [*argv, *(word for statement in statements for word in ("-c", statement))],
        env={**os.environ, "PGCONNECT_TIMEOUT": str(_CONNECT), **secret},
        capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError("; ".join(done.stderr.strip().splitlines()) or f"{psql} failed")
    return bool(done.stdout.strip())


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and name.isprintable()


def _is_url(url: object) -> bool:
    parts = urlsplit(url) if isinstance(url, str) else None
    return parts is not None and bool(parts.scheme and parts.netloc)


def _database_of(url: str) -> str:
    parts = urlsplit(url)
    return unquote(parts.path.strip("/")) or unquote(parts.username or "") or _MAINTENANCE


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def _literal(text: str) -> str:
    return "'{}'".format(text.replace("'", "''"))
