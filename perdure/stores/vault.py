"""Secrets in a store, sealed with AES-256-GCM.

A sealed secret is a byte 1, the id of its key (8 bytes), a nonce (12 bytes) and the ciphertext with
its tag. Its name is authenticated with it, so that no secret can be put in the place of another.
"""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from perdure.core.errors import Conflict, InvalidRequest, Unavailable
from perdure.core.secrets import Secret
from perdure.ports.store import Store

KEY_BYTES: Final = 32
DOCS: Final = "secret"
_FORM: Final = b"\x01"
_ID: Final = 8
_NONCE: Final = 12


class SealedVault:
    """One project's secrets. Implements the `Vault` port.

    `keys` are 32 bytes each: the first seals, all of them open, so that keys can be changed.
    `random` gives that many random bytes. Without `sealing` nothing is taken in: the keys do not
    outlive this process, but the store does.
    """

    def __init__(
        self,
        store: Store,
        keys: Sequence[bytes],
        random: Callable[[int], bytes],
        *,
        sealing: bool = True,
    ) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise InvalidRequest("E-VAULT-KEY", f"A vault key has {KEY_BYTES} bytes.")
        self._store = store
        self._keys = {_id_of(key): AESGCM(key) for key in keys}
        self._sealing = _id_of(keys[0])
        self._random = random
        self._may_seal = sealing

    async def put(self, name: str, secret: Secret) -> None:
        """See `Vault.put`."""
        await self._seal(name, secret)

    async def get(self, name: str) -> Secret | None:
        """See `Vault.get`."""
        doc = await self._store.doc(DOCS, name)
        return None if doc is None else self._opened(name, doc.data)

    async def _seal(self, name: str, secret: Secret, expect: int | None = None) -> None:
        if not self._may_seal:
            raise _keyless()
        nonce = self._random(_NONCE)
        plain = secret.reveal().encode("utf-8", "surrogatepass")
        sealed = self._keys[self._sealing].encrypt(nonce, plain, _bound(name))
        data = _FORM + self._sealing + nonce + sealed
        await self._store.put_doc(DOCS, name, data, expect=expect)

    def _opened(self, name: str, data: bytes) -> Secret:
        form, id_, rest = data[:1], data[1 : 1 + _ID], data[1 + _ID :]
        key = self._keys.get(id_)
        if form != _FORM or key is None:
            raise _shut(name)
        try:
            plain = key.decrypt(rest[:_NONCE], rest[_NONCE:], _bound(name))
        except InvalidTag as error:
            raise _shut(name) from error
        return Secret(plain.decode("utf-8", "surrogatepass"))

    async def reseal(self) -> int:
        """Seal with the first key what another one sealed; return how many secrets that were.

        Stopped in the middle it is simply done again. Raises `Unavailable` (E-VAULT-KEY) for a
        secret that none of the keys opens; those before it are resealed, and all can be read.
        """
        count = 0
        for doc in await self._store.docs(DOCS):
            if doc.data[1 : 1 + _ID] == self._sealing:
                continue
            secret = self._opened(doc.name, doc.data)
            with contextlib.suppress(Conflict):  # it was replaced meanwhile, and so resealed
                await self._seal(doc.name, secret, expect=doc.version)
                count += 1
        return count

    async def delete(self, name: str) -> None:
        """See `Vault.delete`."""
        await self._store.delete_doc(DOCS, name)


def _id_of(key: bytes) -> bytes:
    return hashlib.sha256(b"perdure vault key\0" + key).digest()[:_ID]


def _bound(name: str) -> bytes:
    return b"perdure secret\0" + name.encode("utf-8", "surrogatepass")


def _keyless() -> Unavailable:
    return Unavailable(
        "E-VAULT-KEY",
        "This server has no vault key that lasts, so it keeps no secrets. Nothing was stored.",
        "Give all nodes the same one: [server] vault_key_file, or PERDURE_VAULT_KEY.",
    )


def _shut(name: str) -> Unavailable:
    return Unavailable(
        "E-VAULT-KEY",
        f"The secret {name!r} cannot be opened with the vault's key. It was not changed.",
        "Give the key it was sealed with: [server] vault_key_file, or PERDURE_VAULT_KEY.",
    )
