"""Opens the store that a URL of `--plan-share` means."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pytest_plan.sharing.errors import ShareSetupError
from pytest_plan.sharing.protocol import Store
from pytest_plan.sharing.stores.server import server_of

LOCAL = "local"
_PATIENCE = 10.0
_REDIS, _POSTGRESQL = ("redis", "rediss"), ("postgresql", "postgres")


def open_store(url: str, plan_dir: Path, *, patience: float = _PATIENCE) -> Store:
    """Return the store of a URL.

    Args:
        url: `local`, or a URL that begins with `redis://`, `rediss://` or `postgresql://`.
        plan_dir: the folder of the plan, in which the store `local` has its folder.
        patience: the seconds for which a later call is repeated while the server does not answer.

    Raises:
        ShareSetupError: the URL, the server or its settings cannot be used, or the client library
            is missing. The message says what to do, and contains no password.
    """
    if url == LOCAL:
        from pytest_plan.sharing.stores.sqlite import SqliteStore

        return SqliteStore(plan_dir, patience)
    scheme, separator, _ = url.partition("://")
    if separator and scheme.lower() in _REDIS:
        return _redis(url, patience)
    if separator and scheme.lower() in _POSTGRESQL:
        return _postgresql(url, patience)
    what = (
        f"the URL of --plan-share begins with {scheme!r}" if separator else "--plan-share is no URL"
    )
    raise ShareSetupError(
        f"{what}; use local, redis://host:6379, rediss://host:6379, or "
        "postgresql://user@host:5432/database"
    )


def _redis(url: str, patience: float) -> Store:
    try:
        import redis  # noqa: F401 - only to see whether it is installed
    except ImportError as error:
        raise _missing("redis", error) from error
    from pytest_plan.sharing.stores.redis import RedisStore

    server = server_of(url)
    database = urlsplit(url).path.strip("/")
    if database and not database.isdecimal():  # the library would use database 0
        raise ShareSetupError(
            f"the URL {server.label} cannot be used: {database!r} is no number of a database; "
            "write it as redis://host:6379/0"
        )
    return RedisStore(server, patience)


def _postgresql(url: str, patience: float) -> Store:
    try:
        import psycopg  # noqa: F401 - only to see whether it works: it needs libpq
    except ImportError as error:
        raise _missing("psycopg", error) from error
    from pytest_plan.sharing.stores.postgresql import PostgresqlStore

    return PostgresqlStore(server_of(url), patience)


def _missing(library: str, error: ImportError) -> ShareSetupError:
    return ShareSetupError(
        f"--plan-share needs the library {library} for this URL ({error}); install it: "
        "pip install 'pytest-plan[share]'"
    )
