"""Texts that contain secrets: in a shared environment, they are encrypted.

Everybody with the URL can read the rows of an environment. Only runs that have the same
PYTEST_PLAN_KEY can decrypt them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_plan.engine.journal.codec import Codec, Unbuilt
from pytest_plan.engine.model.secret import Masker, Secret
from pytest_plan.plugin.run.environments.sharing.trust.ciphers import is_encrypted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_plan.plugin.run.environments.sharing.trust.ciphers import RowCipher
    from pytest_plan.sharing.model import Row

_TAG = "secret"  # of a Secret in the text of a value
# A user's value never contains these as they are: its quotes are escaped, and a dict with such a
# key is written as a list.
_TAGGED = f'{{"$": "{_TAG}", '


class SecretCodec(Codec):
    """A codec that also writes a `Secret`. Its texts must be encrypted before others see them."""

    def _plain_object(self, value: Any) -> Any:
        if isinstance(value, Secret):
            return {"$": _TAG, "of": self._plain(value.reveal())}
        return super()._plain_object(value)

    def _tagged(self, tag: str, plain: Mapping[str, Any]) -> Any:
        if tag == _TAG:
            return Unbuilt(tag, None, self._value(plain["of"]))
        return super()._tagged(tag, plain)

    def _built(self, unbuilt: Unbuilt) -> Any:
        if unbuilt.tag == _TAG:
            return Secret(self.build(unbuilt.of))
        return super()._built(unbuilt)


class Vault:
    """Encrypts the rows of a shared environment that contain secrets, and decrypts them.

    Args:
        cipher: encrypts and decrypts.
        masker: the secrets that this process knows. It learns those in decrypted rows.
    """

    def __init__(self, cipher: RowCipher, masker: Masker) -> None:
        self._cipher = cipher
        self._masker = masker

    def encrypted(self, row: Row) -> Row:
        """Return a row as others may see it: encrypted if it contains a secret.

        Raises:
            StateError: it contains a secret and cannot be encrypted; see `RowCipher`.
        """
        text = row.text
        if _TAGGED not in text and self._masker.mask(text) == text:
            return row
        secrets = [one for one in self._masker.texts if _only(one).mask(text) != text]
        return self._cipher.encrypted(row._replace(text=json.dumps([text, secrets])))

    def decrypted(self, row: Row) -> Row:
        """Return a row as it was before `encrypted`, and mask the secrets in it from now on.

        Raises:
            StateError: it cannot be decrypted; see `RowCipher`.
        """
        if not is_encrypted(row):
            return row
        text, secrets = json.loads(self._cipher.decrypted(row).text)
        self._masker.learn_text(secrets)
        return row._replace(text=text)


def _only(text: str) -> Masker:
    masker = Masker()
    masker.learn_text([text])
    return masker
