"""The interface of a store, through which runs share an environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pytest_plan.sharing.model import (
    Access,
    EnvironmentId,
    Joined,
    Joining,
    Kind,
    Lock,
    Member,
    News,
    Project,
    Row,
    View,
)

ABSENT = 0  # the version of a missing key
LARGEST = 16 * 1024 * 1024  # bytes of one value


class Listener(Protocol):
    """The notifications of one environment, from the moment when the listener was created."""

    def wait(self, timeout: float) -> News | None:
        """Wait for notifications; return None if there are none within `timeout` seconds.

        A notification can be lost with the connection. The next answer then has `is_everything`. A
        connection that breaks silently is noticed only after some seconds, so callers that wait
        longer should also look at the environment from time to time.

        Raises:
            SilentError: the server cannot be reached for as long as the store's patience.
        """

    def close(self) -> None:
        """Release the connection. A second call does nothing."""


class Store(Protocol):
    """The shared environments of one server. All methods can be called from any thread.

    Each method is atomic. The store checks the id and the epoch of the environment in each call
    that takes an `Access`, and never compares the clock of a client.

    `write` is the id of a write. If a call is repeated with the same id, nothing is written a
    second time, and the first answer is returned. "" means a new id. The store itself repeats a
    call if the connection breaks.

    All methods raise `SilentError` if the server does not answer for as long as the store's
    patience, `StaleError` if the environment is unknown, has another epoch or the caller is
    not a member any more, and `ShareError` if the server refuses the operation.

    Attributes:
        server: the server, without a password, for messages.
    """

    server: str

    def join(self, name: str, joining: Joining, *, write: str = "") -> Joined:
        """Join the environment `name`, or begin it.

        A run that joins again with the same member has its old role.

        Raises:
            ShareSetupError: another plan or another version of pytest-plan uses the environment.
        """

    def view(self, name: str) -> View | None:
        """Return the environment; None if there is neither an environment nor its mark."""

    def names(self) -> list[str]:
        """Return the names of all environments of the server that are not done, sorted."""

    def renew(self, access: Access) -> View:
        """Renew the member's lease, and return the environment.

        A member may give an old epoch, and goes on with the epoch of the answer. An owner may not.
        """

    def claim(self, environment: EnvironmentId, member: Member, *, write: str = "") -> View:
        """Take over an environment whose owner's lease has lapsed, to clean it up.

        The caller is the new owner if `view.owner` is `member`, and uses the epoch of the answer.
        Otherwise the owner's lease holds, and nothing was changed. A member that becomes the owner
        is no longer in `members`.
        """

    def publish(self, access: Access, rows: Sequence[Row], *, write: str = "") -> int:
        """Write rows of the owner; return their version, which is the same for all of them."""

    def rows(self, access: Access, kind: Kind, after: int = 0) -> list[Row]:
        """Return the rows of a kind that were written after a version, oldest first."""

    def read(self, access: Access, kind: Kind, key: str) -> Row | None:
        """Return a row; None if there is none. This takes one round trip."""

    def versions(self, access: Access) -> dict[str, int]:
        """Return the versions of all keys of the State, as a consistent copy."""

    def put(
        self, access: Access, key: str, text: str, version: int | None, *, write: str = ""
    ) -> int:
        """Write a key of the State if it is at `version`; return its new version.

        Args:
            access: the access of the caller.
            key: the key.
            text: the value.
            version: the version that the key must have. `ABSENT` means that there must be no such
                key, and None means any version or none.
            write: the id of the write.

        Returns:
            The new version; 0 if the key is at another version, so that nothing was written.

        Raises:
            ClosedError: the cleanup has begun, and the caller is not the owner.
            StateError: the key or the value is too long, or cannot be stored.
        """

    def remove(self, access: Access, key: str, version: int, *, write: str = "") -> bool:
        """Remove a key of the State if it is at `version`; return whether it was removed.

        Raises:
            ClosedError: as for `put`.
        """

    def acquire(self, access: Access, lock: Lock, *, write: str = "") -> bool:
        """Try to acquire a lock without waiting; return whether the thread now holds it.

        The lock is held until it is released, the member leaves, or its lease lapses.

        Raises:
            ClosedError: as for `put`.
            StateError: the thread already holds it.
        """

    def release(self, access: Access, lock: Lock, *, write: str = "") -> None:
        """Release a lock.

        Raises:
            StateError: the thread does not hold it any more.
        """

    def notify(self, access: Access, key: str) -> None:
        """Notify all listeners of the environment with a key of kind NOTICE."""

    def listen(self, name: str) -> Listener:
        """Return the notifications of an environment from now on."""

    def end_joining(self, environment: EnvironmentId) -> View:
        """Let nobody join the environment any more; the caller need not be a member.

        Runs that want to join wait until it is done. If it is being cleaned up already, nothing is
        changed.
        """

    def leave(self, access: Access, *, failed: bool, write: str = "") -> View:
        """Leave the environment.

        A member stays in `members` if the owner's lease has lapsed: it must first claim the
        environment, or wait until another one has. An owner that leaves before the environment is
        done leaves the cleanup to others: its lease lapses at once.

        Args:
            access: the access of the caller.
            failed: whether the run has failed.
            write: the id of the write.

        Returns:
            The environment, from which the caller sees whether it is still a member.
        """

    def close(self, access: Access, *, anyway: bool = False, write: str = "") -> View:
        """Begin the cleanup, as the owner, if no member's lease holds and all runs have joined.

        Args:
            access: the access of the caller.
            anyway: whether to close although members are left, or runs are missing.
            write: the id of the write.

        Returns:
            The environment. Its status is CLOSED, unless the owner must wait.
        """

    def restart(self, access: Access, project: Project, *, write: str = "") -> View:
        """Open the environment again, as the heir that has cleaned it up: all rows are deleted."""

    def done(self, access: Access, *, write: str = "") -> None:
        """End the environment, as its owner, once it is cleaned up: only a mark is left."""

    def shut(self) -> None:
        """Close all connections. Membership is not given up. A second call does nothing."""
