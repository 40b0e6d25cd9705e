"""Judges a history from outside, by the times and answers of its calls only.

Times are those of one monotonic clock. A call takes effect at some moment between its begin and its
end, and one without an answer at any moment after its begin, or never. A fault is reported only if
no such moments are right.

- State: writes of a key form one chain, in which each follows from the one before; neither a write
  nor a read goes back behind a write that had ended before it began; what was refused was not done.
- Epochs: an environment is provisioned and cleaned up at most once in an epoch, and cleaned up at
  least once; nothing is done in an epoch after the next has begun, or after the end.
- No cleanup begins while the lease of a member holds, and members write nothing after it.
- Two runs never hold the lock at the same time.

If the server loses data, the times before and after that are judged apart.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from tests.faults.sharing.history import NEVER, End, Event, History

_FENCED = {"read", "put", "publish", "close", "done", "acquire", "release", "leave"}


class Era(NamedTuple):
    """The calls of a history between two losses of data.

    Attributes:
        events: those that have begun and ended in it, or have no end.
        torn: earlier writes, which may have left their values in it, and calls during a loss.
        lease: the length of a lease, in seconds.
        is_last: whether no loss followed.
    """

    events: list[Event]
    torn: list[Event]
    lease: float
    is_last: bool

    def of(self, *what: str) -> list[Event]:
        """Return the calls of some kinds that were answered."""
        return [one for one in self.events if one.what in what and one.end is End.ANSWERED]

    def maybe(self, what: str) -> list[Event]:
        """Return the calls of a kind that may have been done."""
        return [one for one in self.events if one.what == what and one.end is not End.REFUSED]


def faults(history: History) -> list[str]:
    """Return what is wrong with a history."""
    checks: tuple[Callable[[Era], Iterable[str]], ...] = (
        _of_epochs, _of_fences, _of_leases, _of_closed, _of_locks, _of_state,
    )  # fmt: skip
    return [fault for era in _eras(history) for check in checks for fault in check(era)]


def _eras(history: History) -> Iterator[Era]:
    starts = [0.0, *(after for _, after in history.losses)]
    stops = [*(before for before, _ in history.losses), NEVER]
    for start, stop in zip(starts, stops, strict=True):
        events, torn = [], []
        for one in history.events:
            is_within = start <= one.begun and (one.ended <= stop or one.end is End.UNKNOWN)
            if is_within and one.begun <= stop:
                events.append(one)
            elif one.begun < stop and (one.what == "put" or one.ended > start):
                torn.append(one)
        yield Era(events, torn, history.lease, stop == NEVER)


def _of_epochs(era: Era) -> Iterator[str]:
    """Check that each epoch is provisioned and cleaned up at most once, and all is cleaned up."""
    for what in ("provision", "clean", "inherit"):
        times = Counter((one.id, one.epoch) for one in era.of(what))
        yield from (f"{what} {count} times in {one}" for one, count in times.items() if count > 1)
    if era.is_last:
        cleaned = [(one.id, one.begun) for one in era.of("clean", "inherit")]
        for one in era.of("provisioned"):
            if not any(of == one.id and at > one.begun for of, at in cleaned):
                yield f"never cleaned up: {one}"


def _of_fences(era: Era) -> Iterator[str]:
    """Check that nothing is done in an epoch that had ended before, or after the end of all."""
    over: dict[str, list[tuple[float, float, str]]] = defaultdict(list)  # end, first good epoch
    for one in era.of("join", "claim"):
        epoch = one.answer["epoch"]
        over[one.id].append((one.ended, epoch, f"epoch {epoch}"))
    for one in era.of("done"):
        over[one.id].append((one.ended, NEVER, "the end"))
    for one in era.of(*_FENCED):
        for ended, epoch, what in over[one.id]:
            if one.epoch < epoch and ended < one.begun:
                yield f"{one.what} in epoch {one.epoch} was done although it had begun after {what}"
                break


def _of_leases(era: Era) -> Iterator[str]:
    """Check that the lease of a member does not hold from the beginning of a close to its end."""
    gone: dict[str, float] = {}
    for one in (*era.maybe("leave"), *era.maybe("claim")):
        if one.end is End.UNKNOWN or one.member not in one.answer["members"]:
            gone[one.member] = min(one.begun, gone.get(one.member, NEVER))
    leases = [one for one in era.of("join", "renew") if one.answer.get("role") != "wait"]
    for close in era.of("close"):
        if close.answer["status"] != "closed" or close.given.get("anyway"):
            continue
        for lease in leases:
            until = min(lease.begun + era.lease, gone.get(lease.member, NEVER))
            if (
                lease.id == close.id
                and lease.member != close.member
                and lease.ended < close.begun
                and close.ended < until
            ):
                yield f"closed while the lease of {lease.member} held: {close}"


def _of_closed(era: Era) -> Iterator[str]:
    """Check that members write nothing once the owner has closed the environment."""
    closed = {
        (one.id, one.epoch): one for one in era.of("close") if one.answer["status"] == "closed"
    }
    for one in era.of("put", "acquire"):
        close = closed.get((one.id, one.epoch))
        is_late = close is not None and close.ended < one.begun
        if close is not None and is_late and one.member != close.member and one.answer:
            yield f"{one.what} after the environment was closed: {one}"


def _of_locks(era: Era) -> Iterator[str]:
    """Check that nobody acquires the lock while it is held by a run that then releases it."""
    acquired = [one for one in era.of("acquire") if one.answer]
    by_member = defaultdict(list)
    for one in acquired:
        by_member[one.member].append(one)
    for release in era.of("release"):
        before = [one for one in by_member[release.member] if one.ended <= release.begun]
        if not before:
            continue  # acquired before the server lost data
        held = max(before, key=lambda one: one.ended)
        for one in acquired:
            is_between = held.ended < one.begun and one.ended < release.begun
            if is_between and one.id == held.id and one.member != held.member:
                yield f"{one.member} has acquired the lock that {held.member} held: {one}"


class Write(NamedTuple):
    """A write that was done.

    Attributes:
        event: the call.
        version: the version that it has written.
        number: the number that it has written.
    """

    event: Event
    version: int
    number: int


def _of_state(era: Era) -> Iterator[str]:
    # An heir begins with no keys again. A caretaker does not.
    heirs = {(one.id, one.epoch) for one in era.of("join") if one.answer["role"] == "heir"}
    parts: dict[tuple[str, int, str], list[Event]] = defaultdict(list)
    for one in (*era.events, *era.torn):
        if one.what in ("put", "read"):
            epochs = [epoch for id_, epoch in heirs if id_ == one.id and epoch <= one.epoch]
            parts[one.id, max(epochs, default=0), one.given["key"]].append(one)
    torn = {one.given["text"] for one in era.torn if one.what == "put"}
    for (_, _, key), events in parts.items():
        yield from _of_key(key, events, torn, set(map(id, era.torn)))


def _of_key(key: str, events: list[Event], torn: set[str], ids: set[int]) -> Iterator[str]:
    """Check the writes and reads of a key, from the beginning of the environment to its heir.

    Args:
        key: the key.
        events: the calls, also torn ones.
        torn: the texts of torn writes.
        ids: the ids of torn calls.
    """
    here = [one for one in events if id(one) not in ids]
    reads = [one for one in here if one.what == "read" and one.end is End.ANSWERED]
    texts = {one.given["text"]: one for one in events if one.what == "put"}
    done: dict[int, str] = {}  # the text of each version
    for one in (*here, *reads):
        version, text = _written(one)
        if version and done.setdefault(version, text) != text:
            yield f"two writes of {key} have the version {version}"
    for one in events:
        version, text = _written(one)
        if one.what == "read" and version and id(one) in ids:
            done.setdefault(version, text)
    writes = {}
    for version, text in done.items():
        put = texts.get(text)
        if put is None:
            yield f"a value of {key} was read that nobody has written: {text}"
            continue
        if text not in torn and (put.end is End.REFUSED or put.answer == 0):
            yield f"a value of {key} was read which the store had not done: {put}"
        writes[version] = Write(put, version, json.loads(text)[0])
    yield from _of_chain(key, [one for one in writes.values() if _text(one) not in torn], writes)
    yield from _of_order(key, here, writes)
    yield from _of_failures(key, events)


def _text(write: Write) -> str:
    return str(write.event.given["text"])


def _written(event: Event) -> tuple[int, str]:
    """Return the version and the text that a call has read or written; 0 if none."""
    if event.end is not End.ANSWERED or not event.answer:
        return 0, ""
    if event.what == "put":
        return event.answer, event.given["text"]
    version, text = event.answer
    return version, text


def _of_chain(key: str, here: list[Write], writes: dict[int, Write]) -> Iterator[str]:
    """Check that each write follows from exactly one other, so that counters are exact."""
    after = Counter(one.event.given["version"] for one in here)
    for version, times in after.items():
        if times > 1:
            yield f"{times} writes of {key} follow version {version}"
    for one in here:
        before = one.event.given["version"]
        count = 0 if before == 0 else writes[before].number if before in writes else None
        if count is None:
            yield f"a write of {key} follows from a version that nobody has seen: {one.event}"
        elif count + 1 != one.number:
            yield f"a write of {key} does not follow from the last value: {one.event}"


def _of_order(key: str, here: list[Event], writes: dict[int, Write]) -> Iterator[str]:
    """Check that nothing goes back behind a write that had ended before, or sees a later one."""
    puts = [one for one in here if one.what == "put" and _written(one)[0]]
    ended = sorted((one.ended, one.answer) for one in puts)
    times = [at for at, _ in ended]
    highest = list(accumulate((version for _, version in ended), max))
    for one in here:
        if one.end is not End.ANSWERED:
            continue
        is_failed = one.what == "put" and not one.answer
        version = one.given["version"] if is_failed else _written(one)[0]
        before = bisect_left(times, one.begun)
        if before and not is_failed and highest[before - 1] > version:
            yield f"{one.what} of {key} goes back behind version {highest[before - 1]}: {one}"
        if version in writes and one.ended < writes[version].event.begun:
            yield f"{one.what} of {key} sees a write that had not begun: {one}"


def _of_failures(key: str, events: list[Event]) -> Iterator[str]:
    """Check that a write fails only if another write may have changed the version before."""
    others: dict[int, float] = {}
    for one in events:
        is_other = one.what == "put" and one.end is not End.REFUSED and one.answer != 0
        if is_other:
            version = one.given["version"]
            others[version] = min(one.begun, others.get(version, NEVER))
    for one in events:
        is_failed = one.what == "put" and one.end is End.ANSWERED and one.answer == 0
        if is_failed and others.get(one.given["version"], NEVER) > one.ended:
            yield f"a write of {key} has failed without a reason: {one}"
