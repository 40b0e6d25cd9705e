"""Which member of a shared environment lives: leases by the server's clock, or locks on files."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_plan.engine.model.clock import SystemClock
from pytest_plan.engine.model.errors import StateError
from pytest_plan.sharing.errors import ShareError, StaleError
from pytest_plan.sharing.model import Access, Kind, Lock, Member, Role, Row, Status
from pytest_plan.sharing.protocol import Store
from tests.sharing.conftest import Open
from tests.sharing.runs import join, joining, line_of, member, process, tell

SERVERS = ["redis", "postgresql"]
OWNER = """
store, found = joined(1.0)
store.publish(found.access, [Row(Kind.JOURNAL, "1", "begun")])
store.acquire(found.access, Lock("db", "t"))
say("ready")
hear()
"""
# The clock of the machine is a day ahead, or behind.
APART = """
from pytest_plan.engine.model.clock import SystemClock
right = SystemClock.wall
SystemClock.wall = staticmethod(lambda: right() + 86400 * int(sys.argv[4]))
store, found = joined()
hear()
view = store.renew(found.access)
say([view.is_owner_alive, len(view.members)])
hear()
"""


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    limit = SystemClock.now() + 30.0
    while not condition():
        assert SystemClock.now() < limit, "the condition did not become true"
        SystemClock.sleep(0.05)


def is_lost(store: Store, name: str) -> bool:
    """Return whether the owner's lease has lapsed."""
    view = store.view(name)
    return view is not None and not view.is_owner_alive


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals to stop a process")
@pytest.mark.parametrize("url", SERVERS, indirect=True)
def test_a_stopped_owner_is_lost_and_fenced(
    url: str, tmp_path: Path, store: Store, name: str
) -> None:
    """An owner that is stopped for longer than its lease loses the epoch, and cannot go on."""
    code = f"""{OWNER}
errors = []
for call in (
    lambda: store.renew(found.access),
    lambda: store.publish(found.access, [Row(Kind.JOURNAL, "1", "cleanup begun")]),
    lambda: store.close(found.access),
    lambda: store.put(found.access, "k", "1", None),
    lambda: store.release(found.access, Lock("db", "t")),
):
    try:
        call()
    except StaleError as error:
        errors.append(error.current.epoch)
say(errors)
"""
    with process(code, url, tmp_path / "plan", name) as owner:
        assert line_of(owner)[0] == "owner"
        assert line_of(owner) == "ready"
        other = join(store, name).access
        owner.send_signal(signal.SIGSTOP)
        until(lambda: not store.renew(other).is_owner_alive)
        assert store.acquire(other, Lock("db", "t"))
        assert store.leave(other, failed=False).members != ()
        claimed = store.claim(other.environment, Member(other.member, "h"))
        assert claimed.is_caretaker
        owner.send_signal(signal.SIGCONT)
        tell(owner)
        assert line_of(owner) == [2] * 5
        caretaker = Access(claimed.environment, other.member)
        assert [row.text for row in store.rows(caretaker, Kind.JOURNAL)] == ["begun"]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_run_that_is_stopped_within_a_transaction_holds_up_nobody(
    url: str, tmp_path: Path, store: Store, name: str
) -> None:
    """PostgreSQL ends the transaction of a stopped run, and the other runs go on."""
    code = """
store, name = opened()
with store.transaction() as tx:
    store._locked(tx, name)
    say("locked")
    hear()
"""
    access = join(store, name).access
    with process(code, url, tmp_path / "plan", name) as stopped:
        assert line_of(stopped) == "locked"
        stopped.send_signal(signal.SIGSTOP)
        begun = SystemClock.now()
        assert store.put(access, "k", "1", 0)
        assert SystemClock.now() - begun < 20.0
        assert stopped.poll() is None


@pytest.mark.parametrize("url", ["local"], indirect=True)
def test_on_one_machine_a_stopped_owner_lives_and_a_killed_one_does_not(
    url: str, tmp_path: Path, open_: Open, name: str
) -> None:
    """A stopped process keeps its lock, however long; a killed one has lost it at once."""
    store = open_()
    with process(OWNER, url, tmp_path / "plan", name) as owner:
        assert line_of(owner)[0] == "owner"
        assert line_of(owner) == "ready"
        other = join(store, name).access
        owner.send_signal(signal.SIGSTOP)
        SystemClock.sleep(1.5)  # longer than the lease, which has no meaning here
        assert not is_lost(store, name)
        assert not store.acquire(other, Lock("db", "t"))
        assert not store.claim(other.environment, member()).is_caretaker
        owner.kill()
        owner.wait()
        assert is_lost(store, name)
        assert store.acquire(other, Lock("db", "t"))
        store.shut()  # this run ends as well, without a word
        heir = join(open_(), name)
    assert (heir.role, heir.view.environment.epoch) == (Role.HEIR, 2)


@pytest.mark.parametrize("url", ["local"], indirect=True)
def test_on_one_machine_a_process_lives_without_its_file(
    store: Store, tmp_path: Path, name: str, open_: Open
) -> None:
    """If somebody removes the locked files, members still live as long as their processes do."""
    owner = join(store, name)
    folder = tmp_path / "plan" / "shared" / "members"
    assert [file.name for file in folder.iterdir()] == [owner.access.member]
    for file in folder.iterdir():
        file.unlink()
    other = open_()
    assert not is_lost(other, name)
    assert join(other, name).role is Role.MEMBER


@pytest.mark.parametrize("url", ["local"], indirect=True)
def test_on_one_machine_a_store_that_was_removed_is_lost(
    store: Store, tmp_path: Path, name: str
) -> None:
    """If somebody removes the folder of the store, its environments are lost; runs begin again."""
    access = join(store, name).access
    listener = store.listen(name)
    shutil.rmtree(tmp_path / "plan" / "shared")
    with pytest.raises(StaleError, match="does not exist any more"):
        store.renew(access)
    assert join(store, name).view.environment.epoch == 1
    news = listener.wait(10.0)
    assert news is not None
    assert news.is_everything
    listener.close()


@pytest.mark.parametrize("url", SERVERS, indirect=True)
def test_no_close_while_a_member_renews(store: Store, name: str) -> None:
    """A member that renews is waited for beyond its first lease; one that lapses is not."""
    owner, other = join(store, name, lease=1.0).access, join(store, name).access
    begun = SystemClock.now()
    while SystemClock.now() - begun < 2.0:
        store.renew(owner)
        store.renew(other)
        assert store.close(owner).status is Status.OPEN
    until(lambda: store.close(owner).status is Status.CLOSED)
    with pytest.raises(StaleError, match="did not renew its lease in time"):
        store.renew(other)
    with pytest.raises(StaleError):
        store.put(other, "k", "1", None)
    store.renew(owner)
    store.done(owner)


@pytest.mark.parametrize("url", SERVERS, indirect=True)
def test_a_lock_is_lost_with_the_lease(store: Store, name: str) -> None:
    """A lock can be taken from a member whose lease has lapsed; leaving it then is an error."""
    lock = Lock("db", "t")
    owner, other = join(store, name, lease=1.0).access, join(store, name).access
    assert store.acquire(other, lock)
    until(lambda: bool(store.renew(owner)) and store.acquire(owner, lock))
    store.renew(other)  # it is late, but the environment is still open
    with pytest.raises(StateError, match="so another run may have held it"):
        store.release(other, lock)
    assert not store.acquire(other, lock)
    store.release(owner, lock)


@pytest.mark.parametrize("url", SERVERS, indirect=True)
def test_a_late_owner_that_nobody_has_replaced_goes_on(store: Store, name: str) -> None:
    """An owner whose lease has lapsed renews it, if nobody has claimed the environment."""
    owner = join(store, name, lease=1.0).access
    until(lambda: is_lost(store, name))
    assert store.renew(owner).is_owner_alive
    store.publish(owner, [Row(Kind.JOURNAL, "1", "begun")])


def test_clocks_of_clients_do_not_matter(url: str, tmp_path: Path, store: Store, name: str) -> None:
    """Runs whose clocks are a day ahead and a day behind agree which of them live."""
    with (
        process(APART, url, tmp_path / "plan", name, 1) as ahead,
        process(APART, url, tmp_path / "plan", name, -1) as behind,
    ):
        assert {line_of(child)[0] for child in (ahead, behind)} == {"owner", "member"}
        join(store, name)
        for child in (ahead, behind):
            tell(child)
            assert line_of(child) == [True, 2]


def test_an_heir_follows_when_all_are_killed(
    url: str, tmp_path: Path, store: Store, name: str
) -> None:
    """After SIGKILL of the owner, the next run waits for the lease, then inherits the journal."""
    with process(OWNER, url, tmp_path / "plan", name) as owner:
        line_of(owner)
        line_of(owner)
    until(lambda: is_lost(store, name))
    heir = join(store, name)
    assert heir.role is Role.HEIR
    assert [row.text for row in store.rows(heir.access, Kind.JOURNAL)] == ["begun"]
    assert store.join(name, joining()).role is Role.WAIT


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.parametrize("url", ["local"], indirect=True)
def test_a_forked_copy_may_not_use_the_store(store: Store, name: str) -> None:
    """A forked copy is refused, and does not keep its original alive."""
    join(store, name)
    child = os.fork()
    if child == 0:
        try:
            store.view(name)
        except ShareError as error:
            os._exit("forked copy" in str(error))
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
