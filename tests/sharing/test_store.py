"""The contract of the store, which all three back ends keep."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import ANY

import pytest

from pytest_plan.engine.model.errors import StateError
from pytest_plan.sharing.errors import ClosedError, ShareError, ShareSetupError, StaleError
from pytest_plan.sharing.model import (
    ENVIRONMENT,
    Access,
    Joining,
    Kind,
    Lock,
    Member,
    Project,
    Role,
    Row,
    Status,
)
from pytest_plan.sharing.protocol import Store
from tests.sharing.children import count
from tests.sharing.conftest import Open
from tests.sharing.runs import PROJECT, finish, join, joining, line_of, member, process, tell

FIRST = Lock("db", "t1")


def test_first_run_is_owner_and_next_is_member(open_: Open, name: str) -> None:
    """The first run begins the environment with its lease; later ones join as members."""
    owner = join(open_(), name, lease=30.5, runs=3, job="unit 1/8")
    other = join(open_(), name, lease=99.0, runs=1)
    assert (owner.role, other.role) == (Role.OWNER, Role.MEMBER)
    assert owner.begun_again_after is None
    view = other.view
    assert view.environment == owner.view.environment == owner.access.environment
    assert (view.environment.name, view.environment.epoch) == (name, 1)
    assert (view.status, view.lease, view.runs, view.joins) == (Status.OPEN, 30.5, 3, 2)
    assert view.owner is not None
    assert (view.owner.id, view.owner.job) == (owner.access.member, "unit 1/8")
    assert str(view.owner) == f"{view.owner.host} (unit 1/8)"
    assert [one.id for one in view.members] == [other.access.member]
    assert view.is_owner_alive
    assert not view.is_caretaker
    assert view.project == PROJECT
    assert view.done_ago is None


def test_an_environment_is_seen_by_name(store: Store, name: str) -> None:
    """View and names show environments in use, and view shows the mark of one that is done."""
    assert store.view(name) is None
    owner = join(store, name)
    assert name in store.names()
    seen = store.view(name)
    assert seen is not None
    assert seen == owner.view._replace(age=ANY)
    assert 0 <= owner.view.age <= seen.age < 60
    finish(store, owner.access)
    assert name not in store.names()
    mark = store.view(name)
    assert mark is not None
    assert (mark.status, mark.owner, mark.members) == (Status.DONE, None, ())
    assert mark.done_ago is not None
    assert 0 <= mark.done_ago < 60


def test_an_environment_that_is_done_begins_again(store: Store, name: str) -> None:
    """A run after the end begins again: another id, the next epoch, no values, its own lease."""
    old = join(store, name)
    store.put(old.access, "k", "1", None)
    finish(store, old.access)
    new = join(store, name, lease=5.0, project=Project("f2", ("moon",)))
    assert new.role is Role.OWNER
    assert new.begun_again_after is not None
    assert 0 <= new.begun_again_after < 60
    assert new.view.environment.epoch == 2
    assert new.view.environment.id != old.view.environment.id
    assert (new.view.lease, new.view.project.steps) == (5.0, ("moon",))
    assert store.versions(new.access) == {}
    with pytest.raises(StaleError):
        store.renew(old.access)


def test_a_run_that_joins_again_has_its_role(store: Store, name: str) -> None:
    """A run that has not received the answer joins again: it is no second run, and no member."""
    first, second = joining(), joining()
    for _ in range(2):
        assert store.join(name, first).role is Role.OWNER
        assert store.join(name, second).role is Role.MEMBER
    view = store.view(name)
    assert view is not None
    assert (view.joins, len(view.members)) == (2, 1)


def test_another_plan_is_refused(store: Store, name: str) -> None:
    """A run whose steps differ in name or in code is refused, and changes nothing."""
    owner = join(store, name)
    with pytest.raises(ShareSetupError) as caught:
        join(store, name, project=Project("f2", ("moon",)))
    assert str(caught.value) == (
        f"the shared environment {name!r} on {store.server} is used by another plan: its steps are "
        "net, db; this project has moon; use the same commit in all runs, or another "
        "--plan-environment"
    )
    with pytest.raises(ShareSetupError, match=r"code or options of its steps differ \(net, db\)"):
        join(store, name, project=Project("f2", ("net", "db")))
    assert store.view(name) == owner.view._replace(age=ANY)


def test_a_repeated_write_gets_its_first_answer(store: Store, name: str) -> None:
    """Every write can be repeated with its id: it is done once, and answered alike."""
    asked = joining()
    owner = store.join(name, asked, write="w1")
    again = store.join(name, asked, write="w1")
    assert again.role is Role.OWNER
    assert again.view.joins == 1
    access = owner.access
    assert store.put(access, "k", "1", 0, write="w2") == store.put(access, "k", "1", 0, write="w2")
    version = store.versions(access)["k"]
    assert store.put(access, "k", "1", 0) == 0
    assert store.remove(access, "k", version, write="w3")
    assert store.remove(access, "k", version, write="w3")
    assert not store.remove(access, "k", version)
    rows = [Row(Kind.JOURNAL, "1", "{}")]
    assert store.publish(access, rows, write="w4") == store.publish(access, rows, write="w4")
    assert store.acquire(access, FIRST, write="w5")
    assert store.acquire(access, FIRST, write="w5")
    store.release(access, FIRST, write="w6")
    store.release(access, FIRST, write="w6")
    other = join(store, name)
    for _ in range(2):
        view = store.leave(other.access, failed=True, write="w7")
        assert (view.members, view.failures) == ((), 1)
    for _ in range(2):
        assert store.close(access, write="w8").status is Status.CLOSED
    for _ in range(2):
        store.done(access, write="w9")


def test_state_is_written_by_compare_and_swap(open_: Open, name: str) -> None:
    """A write at another version is refused; versions only grow, also over removals."""
    one, two = open_(), open_()
    first, second = join(one, name).access, join(two, name).access
    assert one.read(first, Kind.STATE, "k") is None
    made = one.put(first, "k", '"ä\\u0000"', 0)
    assert two.read(second, Kind.STATE, "k") == Row(Kind.STATE, "k", '"ä\\u0000"', made)
    assert two.put(second, "k", "2", 0) == 0
    changed = two.put(second, "k", "2", made)
    assert changed > made
    assert one.put(first, "k", "3", made) == 0
    assert not one.remove(first, "k", made)
    assert one.remove(first, "k", changed)
    assert not one.remove(first, "k", changed)
    assert two.read(second, Kind.STATE, "k") is None
    assert two.put(second, "k", "4", changed) == 0
    again = two.put(second, "k", "4", 0)
    blind = one.put(first, "k", "5", None)
    assert changed < again < blind
    assert two.put(second, "other:key", "6", None) > blind
    assert [(row.key, row.text) for row in one.rows(first, Kind.STATE)] == [
        ("k", "5"), ("other:key", "6"),
    ]  # fmt: skip
    assert one.versions(first) == {row.key: row.version for row in two.rows(second, Kind.STATE)}


def test_published_rows_are_read_in_order(store: Store, name: str) -> None:
    """The owner publishes rows of all kinds at once; a reader asks for those after a version."""
    owner, other = join(store, name).access, join(store, name).access
    first = store.publish(owner, [Row(Kind.JOURNAL, "1", "begun"), Row(Kind.OUTCOME, "db", "ok")])
    second = store.publish(owner, [Row(Kind.JOURNAL, "2", "x"), Row(Kind.JOURNAL, "10", "y")])
    third = store.publish(owner, [Row(Kind.JOURNAL, "1", "ended")])
    assert first < second < third
    rows = store.rows(other, Kind.JOURNAL)
    assert [(row.key, row.text) for row in rows] == [("10", "y"), ("2", "x"), ("1", "ended")]
    assert store.rows(other, Kind.JOURNAL, second) == [Row(Kind.JOURNAL, "1", "ended", third)]
    assert store.read(other, Kind.OUTCOME, "db") == Row(Kind.OUTCOME, "db", "ok", first)
    with pytest.raises(StaleError, match="belongs to another run"):
        store.publish(other, [Row(Kind.JOURNAL, "1", "forged")])


def test_a_lock_has_one_holder(open_: Open, name: str) -> None:
    """A lock is held by one thread of one member, and released only by that."""
    one, two = open_(), open_()
    first, second = join(one, name).access, join(two, name).access
    assert one.acquire(first, FIRST)
    with pytest.raises(StateError, match=r"lock 'db' .* already held by this thread"):
        one.acquire(first, FIRST)
    assert not one.acquire(first, Lock("db", "t2"))
    assert not two.acquire(second, FIRST)
    assert two.acquire(second, Lock("cache", "t1"))
    with pytest.raises(StateError, match=r"lock 'db' .* was lost"):
        two.release(second, FIRST)
    one.release(first, FIRST)
    assert two.acquire(second, FIRST)
    with pytest.raises(StateError, match="was lost"):
        one.release(first, FIRST)
    two.leave(second, failed=False)
    assert one.acquire(first, FIRST)
    assert one.acquire(first, Lock("cache", "t1"))


def test_notifications_carry_keys(open_: Open, name: str) -> None:
    """A listener is notified of rows, removals, locks and members, by key; and of nothing old."""
    one, two = open_(), open_()
    owner = join(one, name).access
    one.put(owner, "old", "1", None)
    listener = two.listen(name)
    assert listener.wait(0.0) is None

    def heard() -> set[tuple[Kind, str]]:
        news = listener.wait(10.0)
        assert news is not None
        assert not news.is_everything
        keys = set(news.keys)
        while (more := listener.wait(0.05)) is not None:
            keys |= more.keys
        return keys

    version = one.put(owner, "k:1", "1", None)
    assert heard() == {(Kind.STATE, "k:1")}
    one.remove(owner, "k:1", version)
    assert heard() == {(Kind.STATE, "k:1")}
    one.publish(owner, [Row(Kind.OUTCOME, "db", "ok")])
    assert heard() == {(Kind.OUTCOME, "db")}
    one.acquire(owner, FIRST)
    one.release(owner, FIRST)
    assert heard() == {(Kind.NOTICE, "lock:db")}
    other = join(two, name).access
    assert heard() == {ENVIRONMENT}
    two.notify(other, "are you there?")
    assert heard() == {(Kind.NOTICE, "are you there?")}
    beats = one.renew(owner).beats
    assert heard() == {ENVIRONMENT}
    assert one.renew(owner).beats == beats + 1
    finish(one, owner)
    assert listener.wait(10.0) is not None
    listener.close()


def test_close_waits_for_members_and_runs(store: Store, name: str) -> None:
    """Close is refused while a member's lease holds or runs are missing; then nobody joins."""
    owner = join(store, name, runs=2).access
    assert store.close(owner).status is Status.OPEN
    other = join(store, name).access
    view = store.close(owner)
    assert view.status is Status.OPEN
    assert [one.id for one in view.members] == [other.member]
    with pytest.raises(ShareError, match="close it before it is done"):
        store.done(owner)
    with pytest.raises(StaleError, match="belongs to another run"):
        store.close(other)
    assert store.leave(other, failed=False).members == ()
    assert store.close(owner).status is Status.CLOSED
    late = join(store, name, project=Project("f2", ("moon",)))
    assert late.role is Role.WAIT
    assert late.access.member not in {one.id for one in late.view.members}
    with pytest.raises(StaleError):
        store.put(late.access, "k", "1", None)
    store.done(owner)
    assert store.join(name, joining()).role is Role.OWNER


def test_nobody_joins_an_environment_that_is_ending(store: Store, name: str) -> None:
    """Anybody can end the joining. Members stay and write, and the owner waits only for them."""
    owner = join(store, name, runs=5)
    member_ = joining()
    other = store.join(name, member_)
    view = store.end_joining(owner.view.environment)
    assert view.status is Status.ENDING
    assert store.end_joining(owner.view.environment) == view._replace(age=ANY)
    assert join(store, name).role is Role.WAIT
    assert store.join(name, member_).role is Role.MEMBER
    assert store.put(other.access, "k", "1", None)
    assert store.close(owner.access).status is Status.ENDING
    store.leave(other.access, failed=False)
    assert store.close(owner.access).status is Status.CLOSED
    assert store.end_joining(owner.view.environment).status is Status.CLOSED
    store.done(owner.access)
    with pytest.raises(StaleError, match="does not exist any more"):
        store.end_joining(owner.view.environment)
    assert join(store, name).role is Role.OWNER


def test_only_the_owner_writes_after_close(store: Store, name: str) -> None:
    """After a close that did not wait, a member can read, renew and leave, but not write."""
    owner, other = join(store, name).access, join(store, name).access
    version = store.put(other, "k", "1", None)
    view = store.close(owner, anyway=True)
    assert (view.status, len(view.members)) == (Status.CLOSED, 1)
    assert store.renew(other).status is Status.CLOSED
    assert store.read(other, Kind.STATE, "k") is not None
    with pytest.raises(ClosedError, match="its cleanup has begun"):
        store.put(other, "k", "2", None)
    with pytest.raises(ClosedError):
        store.remove(other, "k", version)
    with pytest.raises(ClosedError):
        store.acquire(other, FIRST)
    assert store.put(owner, "k", "3", version)
    store.publish(owner, [Row(Kind.JOURNAL, "1", "cleanup begun")])
    store.leave(other, failed=False)


def test_an_owner_that_resigns_leaves_the_rest_to_a_member(store: Store, name: str) -> None:
    """A member cannot leave a lost owner's environment; it claims the next epoch, and closes."""
    owner, other = join(store, name).access, join(store, name).access
    view = store.leave(owner, failed=True)
    assert (view.owner, view.is_owner_alive) == (None, False)
    assert [one.id for one in store.leave(other, failed=False).members] == [other.member]
    seat = Member(other.member, "h")
    claimed = store.claim(other.environment, seat)
    assert claimed.owner == seat
    assert claimed.is_caretaker
    assert claimed.members == ()
    assert claimed.environment == other.environment._replace(epoch=2)
    caretaker = Access(claimed.environment, other.member)
    with pytest.raises(StaleError, match="now has another owner"):
        store.claim(other.environment, member())
    with pytest.raises(ShareError, match="only an heir opens it again"):
        store.restart(caretaker, PROJECT)
    late = join(store, name)
    assert late.role is Role.MEMBER
    store.leave(late.access, failed=False)
    assert store.close(caretaker).status is Status.CLOSED
    store.done(caretaker)


def test_a_claim_under_a_living_owner_changes_nothing(store: Store, name: str) -> None:
    """Only an environment whose owner's lease has lapsed can be claimed."""
    owner = join(store, name)
    view = store.claim(owner.access.environment, member())
    assert view.owner is not None
    assert view.owner.id == owner.access.member
    assert view.environment == owner.access.environment


def test_members_follow_a_new_epoch_and_owners_do_not(store: Store, name: str) -> None:
    """Every operation with an old epoch is refused; a member renews, and goes on."""
    owner = join(store, name).access
    other = join(store, name).access
    store.leave(owner, failed=False)
    new = store.claim(owner.environment, member()).environment
    for stale in (owner, other):
        for operation in (
            lambda: store.put(stale, "k", "1", None),  # noqa: B023 - called in this round
            lambda: store.remove(stale, "k", 1),  # noqa: B023
            lambda: store.read(stale, Kind.STATE, "k"),  # noqa: B023
            lambda: store.rows(stale, Kind.JOURNAL),  # noqa: B023
            lambda: store.versions(stale),  # noqa: B023
            lambda: store.publish(stale, [Row(Kind.JOURNAL, "1", "")]),  # noqa: B023
            lambda: store.acquire(stale, FIRST),  # noqa: B023
            lambda: store.release(stale, FIRST),  # noqa: B023
            lambda: store.notify(stale, "k"),  # noqa: B023
            lambda: store.leave(stale, failed=False),  # noqa: B023
            lambda: store.close(stale),  # noqa: B023
            lambda: store.restart(stale, PROJECT),  # noqa: B023
            lambda: store.done(stale),  # noqa: B023
        ):
            with pytest.raises(StaleError) as caught:
                operation()
            assert caught.value.current == new
    with pytest.raises(StaleError):
        store.renew(owner)
    access = Access(store.renew(other).environment, other.member)
    assert access.environment == new
    assert store.put(access, "k", "1", None)


def test_heir_gets_the_journal_of_a_lost_owner(store: Store, name: str) -> None:
    """If nobody is left but a journal, the next run cleans up, then opens the environment again."""
    owner = join(store, name).access
    store.publish(owner, [Row(Kind.JOURNAL, "1", "begun")])
    store.put(owner, "k", "1", None)
    assert store.acquire(owner, FIRST)
    store.leave(owner, failed=True)
    with pytest.raises(ShareSetupError, match="another plan"):
        join(store, name, project=Project("f9", ("moon",)))
    heir = join(store, name, runs=1, project=Project("f2", ("db", "web")))
    assert heir.role is Role.HEIR
    assert heir.view.environment == owner.environment._replace(epoch=2)
    assert heir.view.project == PROJECT
    assert (heir.view.status, heir.view.failures, heir.view.joins) == (Status.CLOSED, 0, 1)
    assert join(store, name).role is Role.WAIT
    assert [row.text for row in store.rows(heir.access, Kind.JOURNAL)] == ["begun"]
    view = store.restart(heir.access, Project("f2", ("db", "web")))
    assert (view.status, view.project.fingerprint) == (Status.OPEN, "f2")
    assert store.rows(heir.access, Kind.JOURNAL) == []
    assert store.versions(heir.access) == {}
    assert store.acquire(heir.access, FIRST)
    assert join(store, name, project=Project("f2", ("db", "web"))).role is Role.MEMBER


def test_without_a_journal_there_is_nothing_to_inherit(store: Store, name: str) -> None:
    """An owner that is lost before it began anything is followed by an owner, in the next epoch."""
    owner = join(store, name).access
    store.leave(owner, failed=False)
    next_ = join(store, name, project=Project("f2", ("moon",)))
    assert (next_.role, next_.view.environment.epoch) == (Role.OWNER, 2)
    assert next_.begun_again_after is None


def test_an_heir_that_is_lost_has_an_heir(store: Store, name: str) -> None:
    """Cleanups that are left never expire: the next run inherits them, with what was done."""
    owner = join(store, name).access
    store.publish(owner, [Row(Kind.JOURNAL, "1", "begun")])
    store.leave(owner, failed=False)
    heir = join(store, name)
    store.publish(heir.access, [Row(Kind.JOURNAL, "1", "cleanup begun")])
    store.leave(heir.access, failed=True)
    last = join(store, name)
    assert (last.role, last.view.environment.epoch) == (Role.HEIR, 3)
    assert [row.text for row in store.rows(last.access, Kind.JOURNAL)] == ["cleanup begun"]


def test_bad_names_keys_and_values_are_refused(store: Store, name: str) -> None:
    """What cannot be stored everywhere is refused everywhere, with the reason."""
    for bad in ("", "a{b}", "a\nb", "x" * 201, "\udcff"):
        with pytest.raises(ShareSetupError, match="cannot be the name of a shared environment"):
            join(store, bad)
    with pytest.raises(ShareSetupError, match=r"plan_share_lease is 0\.5s; use at least 1s"):
        join(store, name, lease=0.5)
    with pytest.raises(ShareSetupError, match="--plan-share-runs is -1"):
        join(store, name, runs=-1)
    access = join(store, name).access
    for key in ("a\0b", "\udcff"):
        with pytest.raises(StateError, match="is not valid text; use another key"):
            store.put(access, key, "1", None)
    with pytest.raises(StateError, match="has 1025 bytes; a shared key has at most 1024"):
        store.put(access, "x" * 1025, "1", None)
    with pytest.raises(StateError, match="value of 'k' cannot be shared: it is not valid text"):
        store.put(access, "k", "\udcff", None)
    with pytest.raises(StateError, match=r"value of 'k' has 16\.0 MB as JSON; .* at most 16 MB"):
        store.put(access, "k", "x" * (16 * 1024 * 1024 + 1), None)
    largest = "x" * (16 * 1024 * 1024)
    version = store.put(access, "k", largest, None)
    assert store.read(access, Kind.STATE, "k") == Row(Kind.STATE, "k", largest, version)
    assert store.remove(access, "k", version)


def test_messages_and_reprs_have_no_password(store: Store, url: str) -> None:
    """Neither the label of a server nor the `repr` of a store has the password."""
    for text in (store.server, repr(store)):
        assert "word" not in text
        assert "postgres:" not in text


def test_one_of_twenty_joiners_is_owner(url: str, tmp_path: Path, store: Store, name: str) -> None:
    """Of twenty runs that join at once, in four processes, exactly one becomes the owner."""
    code = """
import threading
store, name = opened()
say("ready")
hear()
found = []
threads = [threading.Thread(target=lambda: found.append(join(store, name))) for _ in range(5)]
[one.start() for one in threads]
[one.join() for one in threads]
say([one.role.value for one in found])
hear()
"""
    roles = []
    with ExitStack() as stack:
        arguments = (code, url, tmp_path / "plan", name)
        children = [stack.enter_context(process(*arguments)) for _ in range(4)]
        for child in children:
            line_of(child)
        for child in children:
            tell(child)
        for child in children:
            roles += line_of(child)
        view = store.view(name)
    assert sorted(roles) == ["member"] * 19 + ["owner"]
    assert view is not None
    assert (view.joins, len(view.members), view.environment.epoch) == (20, 19, 1)


def test_a_counter_of_several_processes_is_exact(
    url: str, tmp_path: Path, store: Store, name: str
) -> None:
    """Compare-and-swap loses no increment of three processes and this one."""
    code = "store, found = joined()\nhear()\ncount(store, found.access, 50)\nsay('done')"
    access = join(store, name).access
    children: list[subprocess.Popen[str]] = []
    with ExitStack() as stack:
        for _ in range(3):
            children.append(stack.enter_context(process(code, url, tmp_path / "plan", name)))
            assert line_of(children[-1])[0] == "member"
        for child in children:
            tell(child)
        count(store, access, 50)
        assert [line_of(child) for child in children] == ["done"] * 3
    row = store.read(access, Kind.STATE, "n")
    assert row is not None
    assert row.text == "200"


def test_a_joining_is_checked_before_the_server(store: Store, name: str) -> None:
    """A lease that is no number is refused."""
    with pytest.raises(ShareSetupError, match="plan_share_lease is infs"):
        store.join(name, Joining(member(), PROJECT, float("inf")))
