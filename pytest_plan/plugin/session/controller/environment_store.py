"""The store of the State in a controller whose workers use a shared environment."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pytest_plan.engine.model.secret import Secret
from pytest_plan.engine.shared.store import Holder
from pytest_plan.plugin.run.environments.sharing.state import EnvironmentStore
from pytest_plan.plugin.xdist.shared_store import SharedStore
from pytest_plan.plugin.xdist.wire import dump, open_value


class ControllerStore(EnvironmentStore, SharedStore):
    """The store of a controller whose workers use a shared environment.

    The environment has values as JSON; workers send and receive pickles. Until the environment is
    joined, the store is that of any controller.
    """

    def notice(self) -> None:
        """Make every waiting caller and every waiting worker look again."""
        super().notice()
        self.pending.answer_ready()

    def read_data(self, key: str) -> tuple[int, bytes] | None:
        """Return the version and the pickle of `key`, or None if there is no entry."""
        if not self.is_connected:
            return super().read_data(key)
        entry = self.read(key)
        return None if entry is None else (entry.version, dump(key, entry.value))

    def write_data(
        self, key: str, data: bytes, version: int | None, secrets: Collection[str] = ()
    ) -> bool:
        """Write a worker's value if the entry is still at `version`; see `SharedStore`."""
        if not self.is_connected:
            return super().write_data(key, data, version, secrets)
        self._learn([Secret(text) for text in secrets if len(text) > 3])
        return self.write(key, open_value(key, data), version, None)

    def snapshot_data(self) -> dict[str, bytes]:
        """Return a consistent copy of the pickles of all values."""
        if not self.is_connected:
            return super().snapshot_data()
        return {key: dump(key, value) for key, value in self.snapshot().items()}

    def refuse_again(self, name: str, worker: str, thread: int) -> None:
        """Raise StateError if the given thread of the worker already holds the lock."""
        if not self.is_connected:
            super().refuse_again(name, worker, thread)  # else the environment refuses it

    def try_acquire(self, name: str, worker: str, thread: int) -> bool:
        """Take the lock `name` for a worker's thread if it is free; return whether it was free."""
        if not self.is_connected:
            return super().try_acquire(name, worker, thread)
        return self.take(name, (worker, thread))

    def free(self, worker: str) -> None:
        """Release every lock of a worker that has ended, and drop its requests."""
        if self.is_connected:
            self.pending.drop(worker)
            self.abandon_all(lambda holder: holder[0] == worker)
        super().free(worker)

    def release_held(self, name: str, holder: Holder) -> None:
        """Release the lock `name` if `holder` holds it."""
        super().release_held(name, holder)
        self.pending.answer_ready()

    def _lasting(self, key: str, value: Any) -> Any:
        return self._journal.lasting(value) if self.is_connected else super()._lasting(key, value)
