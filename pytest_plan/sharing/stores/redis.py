"""The store in Redis or Valkey, for runs on several machines. Each change is one script."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pytest_plan.sharing.errors import Refusal, ShareError, ShareSetupError, explained
from pytest_plan.sharing.model import (
    Access,
    EnvironmentId,
    Joined,
    Joining,
    Kind,
    Lock,
    Member,
    Project,
    Role,
    Row,
    View,
)
from pytest_plan.sharing.rules.record import Moment, record_of, view_of
from pytest_plan.sharing.stores.calls import (
    Calls,
    check_joining,
    check_key,
    check_name,
    check_text,
    new_id,
)
from pytest_plan.sharing.stores.redis_listener import RedisListener
from pytest_plan.sharing.stores.server import Server

T = TypeVar("T")
_PREFIX = "pytest-plan:"
_LONGEST_CALL = 5.0  # seconds that one call may take
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}
_NO_RIGHT = ("noperm", "can't run this command", "can't access", "no permissions")
_READ_ONLY = "can't write against a read only replica"
_EVICTION = "noeviction"


class RedisStore:
    """The store in Redis or Valkey; see `protocol.Store`.

    Args:
        server: the server.
        patience: the seconds for which a call is repeated while the server does not answer.

    Raises:
        ShareSetupError: the server cannot be used: it does not answer, refuses the user, is a
            replica, lacks rights, or may evict keys.
    """

    def __init__(self, server: Server, patience: float) -> None:
        self.server = server.label
        self._calls = Calls(server.label, patience, server.secrets, _is_transient)
        timeout = max(1.0, min(_LONGEST_CALL, patience))
        try:
            self._client = redis.Redis.from_url(
                server.url, socket_timeout=timeout, socket_connect_timeout=timeout,
                socket_keepalive=True, socket_keepalive_options=_keepalive(),
                retry=Retry(NoBackoff(), 0), decode_responses=True,
            )  # fmt: skip
            pool = self._client.connection_pool
            pool.connection_class(**pool.connection_kwargs)  # refuses unknown options of the URL
        except (TypeError, ValueError) as error:
            text = self._calls.clean(str(error))
            raise ShareSetupError(f"the URL {self.server} cannot be used: {text}") from None
        self._script = self._client.register_script(
            Path(__file__).with_name("store.lua").read_text(encoding="utf-8")
        )
        try:
            self._calls.repeat(self._refuse_bad_settings, _is_starting)
        except redis.RedisError as error:
            self.shut()
            raise self._setup_error(error) from None
        except BaseException:
            self.shut()
            raise

    def __repr__(self) -> str:
        return f"<RedisStore {self.server}>"

    def join(self, name: str, joining: Joining, *, write: str = "") -> Joined:
        """Join an environment, or begin it; see `Store.join`."""
        check_name(name)
        check_joining(joining)
        given = {
            **_person(joining.member), **_plan(joining.project), "new_id": new_id(),
            "lease": round(joining.lease * 1000), "runs": joining.runs,
        }  # fmt: skip
        answer, view = self._change("join", name, given, write)
        access = Access(view.environment, joining.member.id)
        ago = answer.get("ago")
        return Joined(Role(answer["role"]), access, view, None if ago is None else ago / 1000)

    def view(self, name: str) -> View | None:
        """Return an environment; see `Store.view`."""
        found = self._call("view", name, {}, "")
        return _view(name, json.loads(found[0])) if found else None

    def names(self) -> list[str]:
        """Return the names of all environments; see `Store.names`."""

        def once() -> list[str]:
            keys = self._client.scan_iter(match=f"{_PREFIX}{{*}}:environment", count=1000)
            living = [key for key in keys if self._client.hget(key, "done") == "0"]
            return sorted(key.partition("{")[2].rpartition("}")[0] for key in living)

        return self._repeat(once)

    def renew(self, access: Access) -> View:
        """Renew a lease; see `Store.renew`."""
        return self._change("renew", access.environment.name, _ids(access), None)[1]

    def claim(self, environment: EnvironmentId, member: Member, *, write: str = "") -> View:
        """Take over a lost environment; see `Store.claim`."""
        given = {**_ids(Access(environment, member.id)), **_person(member)}
        return self._change("claim", environment.name, given, write)[1]

    def publish(self, access: Access, rows: Sequence[Row], *, write: str = "") -> int:
        """Write rows of the owner; see `Store.publish`."""
        texts = [check_text(row.key, row.text) for row in rows]
        given = {**_ids(access), "rows": [_name_of(row.kind, row.key) for row in rows]}
        return int(self._write("publish", access, given, write, texts))

    def rows(self, access: Access, kind: Kind, after: int = 0) -> list[Row]:
        """Return rows of a kind; see `Store.rows`."""
        given = {**_ids(access), "prefix": f"{kind.value}:", "after": after, "texts": True}
        found = self._call("rows", access.environment.name, given, "")
        parts = zip(found[::3], found[1::3], found[2::3], strict=True)
        return [
            Row(kind, row.partition(":")[2], text, int(version)) for row, version, text in parts
        ]

    def read(self, access: Access, kind: Kind, key: str) -> Row | None:
        """Return a row; see `Store.read`."""
        given = {**_ids(access), "row": _name_of(kind, key)}
        found = self._call("read", access.environment.name, given, "")
        return Row(kind, key, found[1], int(found[0])) if found else None

    def versions(self, access: Access) -> dict[str, int]:
        """Return the versions of all keys; see `Store.versions`."""
        given = {**_ids(access), "prefix": f"{Kind.STATE.value}:", "after": 0, "texts": False}
        found = self._call("rows", access.environment.name, given, "")
        parts = zip(found[::2], found[1::2], strict=True)
        return {row.partition(":")[2]: int(version) for row, version in parts}

    def put(
        self, access: Access, key: str, text: str, version: int | None, *, write: str = ""
    ) -> int:
        """Write a key of the State; see `Store.put`."""
        given = {**_ids(access), "row": _name_of(Kind.STATE, key), "version": version}
        return int(self._write("put", access, given, write, [check_text(key, text)]))

    def remove(self, access: Access, key: str, version: int, *, write: str = "") -> bool:
        """Remove a key of the State; see `Store.remove`."""
        given = {**_ids(access), "row": _name_of(Kind.STATE, key), "version": version}
        return bool(self._write("remove", access, given, write))

    def acquire(self, access: Access, lock: Lock, *, write: str = "") -> bool:
        """Try to acquire a lock; see `Store.acquire`."""
        return bool(self._write("acquire", access, _lock(access, lock), write))

    def release(self, access: Access, lock: Lock, *, write: str = "") -> None:
        """Release a lock; see `Store.release`."""
        self._write("release", access, _lock(access, lock), write)

    def notify(self, access: Access, key: str) -> None:
        """Notify all listeners; see `Store.notify`."""
        self._write("notify", access, {**_ids(access), "key": check_key(key)}, None)

    def listen(self, name: str) -> RedisListener:
        """Return the notifications of an environment; see `Store.listen`."""
        return self._repeat(lambda: RedisListener(self._client, _channel(name), self._calls))

    def end_joining(self, environment: EnvironmentId) -> View:
        """Let nobody join any more; see `Store.end_joining`."""
        return self._change("end_joining", environment.name, _ids(Access(environment, "")), None)[1]

    def leave(self, access: Access, *, failed: bool, write: str = "") -> View:
        """Leave an environment; see `Store.leave`."""
        given = {**_ids(access), "failed": failed}
        return self._change("leave", access.environment.name, given, write)[1]

    def close(self, access: Access, *, anyway: bool = False, write: str = "") -> View:
        """Begin the cleanup; see `Store.close`."""
        given = {**_ids(access), "anyway": anyway}
        return self._change("close", access.environment.name, given, write)[1]

    def restart(self, access: Access, project: Project, *, write: str = "") -> View:
        """Open an environment again; see `Store.restart`."""
        given = {**_ids(access), **_plan(project)}
        return self._change("restart", access.environment.name, given, write)[1]

    def done(self, access: Access, *, write: str = "") -> None:
        """End an environment; see `Store.done`."""
        self._change("done", access.environment.name, _ids(access), write)

    def shut(self) -> None:
        """Close all connections; see `Store.shut`."""
        self._client.close()

    def _change(
        self, operation: str, name: str, given: dict[str, Any], write: str | None
    ) -> tuple[Any, View]:
        """Change an environment; return the value of the change, and the view."""
        answer = json.loads(self._call(operation, name, given, write)[0])
        return answer["value"], _view(name, answer)

    def _write(
        self,
        operation: str,
        access: Access,
        given: dict[str, Any],
        write: str | None,
        texts: Sequence[str] = (),
    ) -> Any:
        """Change rows or locks; return the value of the change."""
        found = self._call(operation, access.environment.name, given, write, texts)
        return json.loads(found[0])["value"]

    def _call(
        self,
        operation: str,
        name: str,
        given: dict[str, Any],
        write: str | None,
        texts: Sequence[str] = (),
    ) -> list[Any]:
        """Run the script; `write` is the id of the write, "" a new one, and None means none."""
        keys = [_key(name, part) for part in ("environment", "rows", "versions")]
        if write is not None:
            keys.append(_key(name, f"answer:{write or new_id()}"))
        args = [operation, _channel(name), json.dumps(given), *texts]
        status, *found = self._repeat(lambda: self._run(keys, args))
        if status == "refused":
            refusal = Refusal(found[0], **(json.loads(found[1]) or {}))
            raise explained(refusal, name, self.server)
        return found

    def _run(self, keys: list[str], args: list[str]) -> list[Any]:
        return list(self._script(keys=keys, args=args))

    def _repeat(self, attempt: Callable[[], T]) -> T:
        try:
            return self._calls.repeat(attempt)
        except redis.RedisError as error:
            raise self._refused(error) from None

    def _refuse_bad_settings(self) -> None:
        if self._client.info("replication").get("role") == "slave":
            raise ShareSetupError(self._read_only())
        policy = self._client.info("memory").get("maxmemory_policy", _EVICTION)
        if policy != _EVICTION:
            raise ShareSetupError(
                f"{self.server} may remove keys when its memory is full (maxmemory-policy "
                f"{policy}), also those of an environment in use; set maxmemory-policy to "
                f"{_EVICTION}, or use another server"
            )
        self._script(keys=[_key("", "probe")], args=["probe", _channel(""), "{}"])

    def _setup_error(self, error: redis.RedisError) -> ShareSetupError:
        text = self._calls.clean(str(error))
        if _READ_ONLY in text:
            return ShareSetupError(self._read_only())
        if _lacks_right(error):
            return ShareSetupError(
                f"{self.server} does not give its user the rights that sharing needs: {text}; "
                f"allow it: ACL SETUSER name ~{_PREFIX}* resetchannels &{_PREFIX}* "
                "+@all -@dangerous +info"
            )
        if isinstance(error, redis.exceptions.MovedError):
            cure = "sharing needs a server without cluster mode, or with a single shard"
        elif isinstance(error, redis.AuthenticationError):
            cure = "check the user and the password in the URL"
            text = "it requires a password" if "HELLO" in text else text
        elif self.server.startswith("rediss:"):
            cure = "check the URL, that the server has TLS, and that it can be reached from here"
        else:
            cure = "check the URL, and that the server is running and can be reached from here"
        return ShareSetupError(f"{self.server} cannot be used: {text}; {cure}")

    def _refused(self, error: redis.RedisError) -> ShareError:
        text = self._calls.clean(str(error))
        known = redis.AuthenticationError | redis.exceptions.MovedError
        if isinstance(error, known) or _READ_ONLY in text or _lacks_right(error):
            return self._setup_error(error)
        return ShareError(f"{self.server} has refused an operation: {text}")

    def _read_only(self) -> str:
        return f"{self.server} is a read-only replica; use the URL of the primary server"


def _view(name: str, answer: dict[str, Any]) -> View:
    now = answer["now"]
    return view_of(name, record_of(answer["record"]), Moment(now, lambda seat: seat.until > now))


def _ids(access: Access) -> dict[str, Any]:
    environment = access.environment
    return {"id": environment.id, "epoch": environment.epoch, "member": access.member}


def _person(member: Member) -> dict[str, Any]:
    return {"member": member.id, "who": json.dumps(member)}


def _plan(project: Project) -> dict[str, Any]:
    return {"fingerprint": project.fingerprint, "steps": json.dumps(project.steps)}


def _lock(access: Access, lock: Lock) -> dict[str, Any]:
    name = check_key(lock.name)
    return {**_ids(access), "lock": name, "holder": f"{access.member} {lock.thread}"}


def _name_of(kind: Kind, key: str) -> str:
    return f"{kind.value}:{check_key(key)}"


def _key(name: str, part: str) -> str:
    return f"{_PREFIX}{{{name}}}:{part}"  # in a cluster, all keys of an environment are in one slot


def _channel(name: str) -> str:
    return _key(name, "events")


def _keepalive() -> dict[int, int]:
    return {
        getattr(socket, key): value for key, value in _KEEPALIVE.items() if hasattr(socket, key)
    }


def _lacks_right(error: Exception) -> bool:
    text = str(error).lower()
    return any(part in text for part in _NO_RIGHT)


def _is_starting(error: Exception) -> bool:
    return isinstance(error, redis.BusyLoadingError)


def _is_transient(error: Exception) -> bool:
    if isinstance(error, redis.AuthenticationError):
        return False
    return isinstance(error, redis.ConnectionError | redis.TimeoutError)
