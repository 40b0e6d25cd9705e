"""The seals of a published journal: only the owner of the key can write a row that is believed."""

from __future__ import annotations

import json

from pytest_plan.engine.journal.seal import Key
from pytest_plan.engine.model.errors import StateError
from pytest_plan.engine.model.secret import KEY_VARIABLE
from pytest_plan.plugin.run.environments.sharing.trust.ciphers import RowCipher, is_encrypted
from pytest_plan.sharing.model import EnvironmentId, Row


class RowSeals:
    """Seals the rows of the journal of a shared environment, and opens them.

    Anyone with the URL can write rows. A cleanup runs only what is in rows that `open` accepts.

    Args:
        environment: the environment, in the epoch of the rows that this process writes.
        key: the key of this process. Without PYTEST_PLAN_KEY, it is that of the user's state
            folder, which only other processes of this user on this machine know.
        is_local: whether all runs are on this machine.
    """

    def __init__(self, environment: EnvironmentId, key: Key, *, is_local: bool) -> None:
        self._epoch = environment.epoch
        self._seal = key.seal(f"shared {environment.name} {environment.id}")
        self._cipher = RowCipher(environment, key, is_local=is_local)
        # On one machine, the rows are in a private folder, as the journal is.
        self._encrypts = not is_local and key.given is not None

    @property
    def problem(self) -> str | None:
        """Why runs on other machines cannot open the rows, and what to do; None if they can."""
        if self._cipher.has_key:
            return None
        return (
            f"{KEY_VARIABLE} is not set, so no other run can clean up if this machine dies: set it "
            "to the same secret in all runs (to make one: openssl rand -hex 32)"
        )

    def seal(self, row: Row) -> Row:
        """Return a row with its seal, which includes the epoch in which it is written.

        A row for a server is encrypted besides, if that is possible. A row can contain what a step
        makes known as a secret only later.
        """
        row = row._replace(text=json.dumps([self._epoch, self._of(self._epoch, row), row.text]))
        if self._encrypts:
            try:
                return self._cipher.encrypted(row)
            except StateError:  # a library is missing
                self._encrypts = False
        return row

    def open(self, row: Row) -> Row | None:
        """Return a sealed row as it was before `seal`; None if it must not be believed.

        A row that was written in an earlier epoch of the same environment is accepted. One of a
        later epoch is not, nor one that was moved from another environment or key.
        """
        import hmac  # loads OpenSSL, which a run that takes nothing over does not need

        try:
            if is_encrypted(row):
                row = self._cipher.decrypted(row)
            epoch, seal, text = json.loads(row.text)
        except (StateError, ValueError, TypeError, RecursionError):
            return None
        if type(epoch) is not int or not isinstance(seal, str) or not isinstance(text, str):
            return None
        plain = row._replace(text=text)
        is_sealed = hmac.compare_digest(self._of(epoch, plain).encode(), seal.encode())
        return plain if is_sealed and epoch <= self._epoch else None

    def _of(self, epoch: int, row: Row) -> str:
        return self._seal(row.kind.value, epoch, row.key, row.text).hex()
