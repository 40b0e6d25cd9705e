"""What runs that share an environment believe of it, and what others with the URL do not see."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import redis as library

from pytest_plan.engine.journal.reference import References
from pytest_plan.engine.journal.schema import replace
from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.journal.writing.transaction import Statement
from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.model.secret import Masker, Secret
from pytest_plan.engine.processes.identity import this_owner
from pytest_plan.plugin.run.environments.sharing.link import Link
from pytest_plan.plugin.run.environments.sharing.trust.ciphers import RowCipher
from pytest_plan.plugin.run.environments.sharing.trust.seals import RowSeals
from pytest_plan.plugin.run.environments.sharing.trust.secrets import SecretCodec, Vault
from pytest_plan.plugin.run.environments.takeover.published_journal import (
    PublishedJournal,
    Recovered,
)
from pytest_plan.sharing.model import EnvironmentId, Joining, Kind, Row
from pytest_plan.sharing.model import Project as SharedPlan
from pytest_plan.sharing.urls import LOCAL, open_store
from pytest_plan.steps.servers import redis
from tests.plugin.project import Project, until
from tests.plugin.sharing_runs import Runs, ended
from tests.sharing.runs import member
from tests.sharing.servers import missing, redis_server

KEY = Key("ab" * 32)
ENVIRONMENT = EnvironmentId("build-7", "f00d", 2)
ROW = Row(Kind.JOURNAL, "000002 00000001", '["INSERT", []]', 7)


def seals(key: Key = KEY, *, is_local: bool = False, **other: Any) -> RowSeals:
    """Return the seals of the environment, or of one that differs from it."""
    return RowSeals(ENVIRONMENT._replace(**other), key, is_local=is_local)


def test_a_sealed_row_is_opened_with_the_same_key_alone() -> None:
    """A row of this epoch or an earlier one is opened; one of elsewhere, or changed, is not."""
    row = seals(is_local=True).seal(ROW)
    hidden = seals().seal(ROW)
    assert "INSERT" in row.text
    assert "INSERT" not in hidden.text
    assert seals().open(row) == seals().open(hidden) == ROW
    assert seals(epoch=3).open(row) == ROW
    others = [seals(epoch=1), seals(name="build-8"), seals(id="beef"), seals(Key("cd" * 32))]
    assert [one.open(row) for one in others] == [None] * 4
    assert [one.open(hidden) for one in others] == [None] * 4
    epoch, seal, text = json.loads(row.text)
    forged = [
        row._replace(key="000002 00000002"),
        row._replace(kind=Kind.OUTCOME),
        row._replace(text=json.dumps([1, seal, text])),
        row._replace(text=json.dumps([epoch, seal, f"{text} "])),
        row._replace(text=json.dumps([True, seal, text])),
        row._replace(text=json.dumps([epoch, "\N{SNOWMAN}", text])),
        *(row._replace(text=text) for text in ("", "7", "[1]", "[" * 100_000, "{}", ROW.text)),
    ]
    assert [seals().open(one) for one in forged] == [None] * len(forged)


def test_others_open_the_rows_only_if_the_key_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the state folder is that of one machine, so a server needs PYTEST_PLAN_KEY."""
    assert seals().problem is None
    own = seals(Key())
    assert own.problem is not None
    assert "PYTEST_PLAN_KEY is not set" in own.problem
    assert seals(Key(), is_local=True).problem is None
    assert seals(Key()).open(own.seal(ROW)) == ROW


def vault(masker: Masker, key: Key = KEY, *, is_local: bool = False, **other: Any) -> Vault:
    """Return what encrypts the rows of the environment, or of one that differs from it."""
    return Vault(RowCipher(ENVIRONMENT._replace(**other), key, is_local=is_local), masker)


@dataclasses.dataclass
class Login:
    """A value with a secret."""

    name: str
    password: Secret[str]


def knowing(value: object) -> Masker:
    """Return a masker that knows the secrets of a value."""
    masker = Masker()
    masker.learn(value)
    return masker


def test_a_value_with_secrets_is_encrypted_and_others_learn_them() -> None:
    """Secrets in dataclasses, dicts and lists are read as they were, and masked from then on."""
    login = Login("ada", Secret("s3cr\nt pass"))
    value = {"logins": [login], "raw": Secret(b"\x00key\xff"), "url": "x://a:s3cr\nt pass@b"}
    codec = SecretCodec(References(Path()))
    row = Row(Kind.STATE, "db", codec.encode(value))
    hidden = vault(knowing(value)).encrypted(row)
    assert "s3cr" not in hidden.text
    assert "ada" not in hidden.text
    assert vault(knowing(value)).encrypted(row) != hidden  # equal values do not look equal
    masker = Masker()
    assert codec.build(codec.decode(vault(masker).decrypted(hidden).text)) == value
    assert masker.mask("x s3cr\nt pass") == "x ***"
    plain = row._replace(
        text=codec.encode({"user": "ada", "$": "secret", "of": ['{"$": "secret", ']})
    )
    assert vault(masker).encrypted(plain) == vault(masker).decrypted(plain) == plain
    unmasked = row._replace(text=codec.encode(Secret(1.5)))
    assert "1.5" not in vault(masker).encrypted(unmasked).text


def test_an_encrypted_row_is_valid_in_its_place_alone() -> None:
    """A row of another key, environment or place, or a changed one, is refused with the cure."""
    masker = knowing(Secret("s3cret"))
    row = Row(Kind.STATE, "db", '"s3cret"')
    hidden = vault(masker).encrypted(row)
    assert vault(masker, epoch=9).decrypted(hidden) == row
    elsewhere = [vault(masker, Key("cd" * 32)), vault(masker, id="beef"), vault(masker, name="b")]
    text = hidden.text
    flipped = f"{text[:40]}{'B' if text[40] == 'A' else 'A'}{text[41:]}"
    moved = [
        hidden._replace(key="net"),
        hidden._replace(kind=Kind.VARIABLE),
        hidden._replace(text=flipped),
        hidden._replace(text=hidden.text[:30] + '"}'),
        hidden._replace(text='{"$": "encrypted", "of": "'),
    ]
    for one, changed in [(one, hidden) for one in elsewhere] + [
        (vault(masker), one) for one in moved
    ]:
        with pytest.raises(StateError, match="was encrypted with another key, or was changed; set"):
            one.decrypted(changed)


def test_a_secret_is_not_published_without_a_key_or_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error names the variable to set, or the package to install."""
    masker = knowing(Secret("s3cret"))
    row = Row(Kind.STATE, "db", '"s3cret"')
    with pytest.raises(StateError, match="contains a secret: set PYTEST_PLAN_KEY to the same"):
        vault(masker, Key()).encrypted(row)
    hidden = vault(masker, Key(), is_local=True).encrypted(row)
    assert vault(Masker(), Key(), is_local=True).decrypted(hidden) == row
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(StateError, match=r"pip install 'pytest-plan\[share\]'"):
        vault(masker).encrypted(row)
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    with pytest.raises(StateError, match="there is no key to encrypt it: /proc/nowhere"):
        vault(masker, Key(), is_local=True).encrypted(row)


def facts_of_the_owner() -> list[Statement]:
    """Return the statements with which a journal of this process begins."""
    me = this_owner()
    facts = {
        "owner": {"pid": me.pid, "birth": me.birth, "boot": me.boot},
        "host": me.host,
        "namespace": me.namespace,
    }
    return [(replace("environment"), (name, json.dumps(one))) for name, one in facts.items()]


def test_a_journal_that_is_rebuilt_has_no_secret_and_no_encrypted_value(tmp_path: Path) -> None:
    """A value with a secret is recorded as on the disk of the owner: there is only the reason."""
    hidden = vault(knowing(Secret("s3cret"))).encrypted(Row(Kind.STATE, "db", '"s3cret"'))
    statements = facts_of_the_owner()
    found = Recovered(statements, [hidden, Row(Kind.STATE, "port", "80")], unread=0)
    environment = found.rebuild(tmp_path / "plan", "lost", KEY)
    try:
        for _ in range(2):
            recorded = environment.read()
            assert recorded.state == {"db": None, "port": "80"}
            assert recorded.lost == {"db": "it contains a secret"}
            found.update(environment, KEY)
    finally:
        environment.release(remove=True)


def test_a_cleanup_gets_the_value_that_its_step_returned(tmp_path: Path) -> None:
    """Anybody with the URL can write the State, but no value of a step that a caretaker undoes."""
    store = open_store(LOCAL, tmp_path / "plan")
    project, me = SharedPlan("f", ("vm",)), member()
    link = Link(store, store.join("build-7", Joining(me, project)), project, me, is_local=True)
    running = (0, "[]", "[]", 1, "always", None, None, "running", 0, "", "none", "", 0, 0)
    value = replace("state")
    try:
        PublishedJournal(link, KEY).publish(
            [
                *facts_of_the_owner(),
                (replace("step"), ("vm", ".", *running)),
                (value, ("vm", '"vm-1"', None, "vm", None, None)),
                (value, ("port", "80", None, "", None, None)),
                (value, ("disk", "text", None, "disk", None, b"x" * 70_000)),
            ]
        )
        store.put(link.access, "vm", '"vm-of-somebody-else"', None)
        store.put(link.access, "port", "81", None)
        found = PublishedJournal(link, KEY).read()
    finally:
        store.shut()
    environment = found.rebuild(tmp_path / "rebuilt", "lost", KEY)
    try:
        assert environment.read().state == {
            "vm": '"vm-1"',
            "port": "81",
            "disk": f'"{"x" * 70_000}"',
        }
    finally:
        environment.release(remove=True)


STEPS = """
import dataclasses

@dataclasses.dataclass
class Login:
    user: str
    password: object

@pytest.mark.plan_step
def server(ctx):
    ctx.setenv("DSN", f"x://ada:{os.environ['WORD']}@localhost")
    print("the word is", ctx.secret(os.environ["WORD"]).reveal())
    return Login("ada", Secret(os.environ["WORD"]))

@pytest.mark.plan_step
def client(server, ctx):
    url = "y://" + server.password.reveal()
    ctx.defer(print, "bye", url)
    return url

@pytest.mark.plan_step(per="worker")
def mine(client):
    yield
    raise ValueError(f"told {client}")
"""
TESTS = """
import conftest
import time

def test_values(client, server, mine, plan):
    assert client == "y://" + server.password.reveal()
    assert os.environ["DSN"].split(":")[2] == server.password.reveal() + "@localhost"
    plan.state["token " + str(os.getpid())] = [server.password]
    while not os.path.exists("go"):
        time.sleep(0.02)
"""


def everything_in(url: str) -> str:
    """Return all keys and values of a Redis server as text."""
    found: dict[bytes, object] = {}
    with library.Redis.from_url(url) as client:
        for key in client.scan_iter():
            kind = client.type(key)
            if kind == b"string":
                found[key] = client.get(key)
            elif kind == b"hash":
                found[key] = client.hgetall(key)
            elif kind == b"set":
                found[key] = client.smembers(key)
            elif kind != b"none":  # it was removed meanwhile
                assert kind == b"zset"
                found[key] = client.zrange(key, 0, -1, withscores=True)
    return str(found)


def test_no_row_of_a_server_has_a_secret_in_clear(runs: Runs, project: Project) -> None:
    """Members read and mask the secrets of the owner, and Redis has none; it needs a key."""
    if why := missing(redis.KIND):
        pytest.skip(why)
    project.steps(STEPS)
    project.tests(TESTS)
    word = "w0rd-of-the-owner"
    with redis_server() as server:
        runs.share = ["--plan-environment", "build-7", "-rA"]
        url = {"PYTEST_PLAN_SHARE": server.url}
        said = ended(runs(WORD=word, **url), 1)
        assert "set PYTEST_PLAN_KEY to the same secret in all runs" in said
        assert "plan: PYTEST_PLAN_KEY is not set, so no other run can clean up" in said
        given = {**url, "PYTEST_PLAN_KEY": "ab" * 32}
        owner = runs(WORD=word, **given)
        until(owner, "client")
        member = runs("-p", "xdist", "-n1", **given)
        while len(set(re.findall(r"token \d+", stored := everything_in(server.url)))) < 2:
            assert owner.poll() is None
            assert member.poll() is None
        (project.path / "go").touch()
        said = ended(member, 1) + ended(owner, 1)
    parts = ["variable:server DSN", "journal:", "outcome:server", "state:client", "encrypted"]
    assert [part for part in parts if part not in stored] == []
    assert word not in stored
    assert word not in said
    assert said.count("ValueError: told y://***") >= 2
