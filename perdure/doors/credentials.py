"""Vaults and credentials: what doors keep of them in the open, and the secrets they seal.

A record says where a credential is used and how; the secrets themselves are only in the `Vault`,
one sealed JSON object for each credential, and are never given back.
"""

from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec.structs import replace

from perdure.core.errors import Forbidden, NotFound
from perdure.core.secrets import Secret
from perdure.doors.documents import Documents
from perdure.ports.store import Store
from perdure.ports.vault import Vault

Json = dict[str, Any]

VAULT: Final = "vault"
CREDENTIAL: Final = "credential"
PLACEHOLDER: Final = "perdure-secret:"


class VaultRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A vault: a name and pairs for credentials that belong together. Times in seconds."""

    id: str
    created_at: int
    updated_at: int = 0
    name: str | None = None
    metadata: dict[str, str] = {}
    archived_at: int | None = None


class CredentialRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A credential without its secrets. `auth` is what may be read of it: its type, where it is
    used, how it is renewed. Times in seconds.
    """

    id: str
    vault_id: str
    created_at: int
    updated_at: int
    name: str
    auth: Json
    metadata: dict[str, str] = {}
    archived_at: int | None = None

    @property
    def key(self) -> str:
        """The name of the record, and of its secrets in the vault."""
        return f"{self.vault_id}/{self.id}"


class Credentials:
    """The vaults of one project."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self.vaults = Documents(store, VAULT, VaultRecord)
        self.all = Documents(store, CREDENTIAL, CredentialRecord)
        self._vault = vault

    async def find(self, vault_id: str, credential_id: str) -> CredentialRecord | None:
        """Return a credential, or None."""
        return await self.all.find(f"{vault_id}/{credential_id}")

    async def of(self, vault_id: str) -> list[CredentialRecord]:
        """Return the credentials of a vault, the oldest first."""
        return [record async for _, record in self.all.each(prefix=f"{vault_id}/")]

    async def keep(
        self, record: CredentialRecord, secrets: Json | None, *, expect: int | None = None
    ) -> None:
        """Keep a credential; with `secrets`, seal those first: a record never stands for secrets
        that are not there.
        """
        if secrets is not None:
            sealed = Secret(msgspec.json.encode(secrets).decode())
            await self._vault.put(record.key, sealed)
        await self.all.put(record.key, record, expect=expect)

    async def secrets(self, record: CredentialRecord) -> Json:
        """Return a credential's secrets, to be used and not to be kept. Raises `NotFound`,
        `Unavailable` (E-VAULT-KEY).
        """
        found = await self._vault.get(record.key)
        if found is None:
            raise NotFound("E-MISSING", f"The secrets of credential {record.id} are gone.")
        secrets: Json = msgspec.json.decode(found.reveal())
        return secrets

    async def delete(self, record: CredentialRecord) -> None:
        """Forget a credential, its secrets first."""
        await self._vault.delete(record.key)
        await self.all.delete(record.key)

    async def forget(self, key: str) -> None:
        """Forget the secrets under a key, if there are any."""
        await self._vault.delete(key)

    async def delete_vault(self, vault_id: str) -> None:
        """Forget a vault and all its credentials."""
        for record in await self.of(vault_id):
            await self.delete(record)
        await self.vaults.delete(vault_id)

    async def archive_vault(self, vault_id: str, now: int) -> VaultRecord:
        """Put a vault and its credentials out of use; their secrets are forgotten. Again is no
        error. Raises `NotFound`.
        """
        record, version = await self.vaults.versioned(vault_id)
        for each in await self.of(vault_id):
            await self.archive(each, now)
        if record.archived_at is None:
            record = replace(record, archived_at=now)
            await self.vaults.put(vault_id, record, expect=version)
        return record

    async def archive(self, record: CredentialRecord, now: int) -> CredentialRecord:
        """Put a credential out of use; its secrets are forgotten. Again is no error."""
        if record.archived_at is not None:
            return record
        archived = replace(record, archived_at=now)
        await self.all.put(record.key, archived)
        await self._vault.delete(record.key)
        return archived


async def active(store: Store, vault_ids: tuple[str, ...]) -> list[CredentialRecord]:
    """Return the credentials in use of some vaults, by vault. Raises `NotFound` (E-VAULT-UNKNOWN)
    for a vault that does not exist or was archived.
    """
    vaults = Documents(store, VAULT, VaultRecord)
    docs = Documents(store, CREDENTIAL, CredentialRecord)
    found: list[CredentialRecord] = []
    for vault_id in vault_ids:
        vault = await vaults.find(vault_id)
        if vault is None or vault.archived_at is not None:
            raise NotFound("E-VAULT-UNKNOWN", f"There is no vault {vault_id} in use.")
        every = [record async for _, record in docs.each(prefix=f"{vault_id}/")]
        found += [record for record in every if record.archived_at is None]
    return found


async def credential_for(
    store: Store, vault_ids: tuple[str, ...], url: str, credential_id: str = ""
) -> str:
    """Return the key of the credential that authorises us at the MCP server `url`: the one that is
    named, else the only one of these vaults that is for this server; "" when there is none.

    Raises `NotFound` (E-VAULT-UNKNOWN, E-CREDENTIAL) and `Forbidden` (E-CREDENTIAL) when the one
    that is named is for another server, or several would do.
    """
    known = await active(store, vault_ids)
    if credential_id:
        record = next((each for each in known if each.id == credential_id), None)
        if record is None:
            raise NotFound(
                "E-CREDENTIAL", f"There is no credential {credential_id} in the session's vaults."
            )
        ensure_for(record, url)
        return record.key
    fitting = [each for each in known if _is_for(each, url)]
    if len(fitting) > 1:
        raise Forbidden(
            "E-CREDENTIAL", f"Several credentials are for {url}.", "Name one: credential_id"
        )
    return fitting[0].key if fitting else ""


def ensure_for(record: CredentialRecord, url: str) -> None:
    """Raise `Forbidden` (E-CREDENTIAL) unless a credential is for the MCP server `url`."""
    if not _is_for(record, url):
        raise Forbidden(
            "E-CREDENTIAL",
            f"Credential {record.id} is not for {url}; nothing was sent there.",
            "A credential is used at its own mcp_server_url only.",
        )


async def placeholders(store: Store, vault_ids: tuple[str, ...]) -> dict[str, str]:
    """Return the variables that a session with these vaults sees: for each secret a placeholder,
    never the secret. Raises `NotFound` (E-VAULT-UNKNOWN).
    """
    return {
        str(record.auth["secret_name"]): f"{PLACEHOLDER}{record.key}"
        for record in await active(store, vault_ids)
        if record.auth["type"] == "environment_variable"
    }


def plain_url(url: str) -> str:
    """Return a URL in the form in which two are compared."""
    parts = urlsplit(url)
    return urlunsplit(
        (parts.scheme.lower(), parts.netloc.lower(), parts.path.rstrip("/"), parts.query, "")
    )


def _is_for(record: CredentialRecord, url: str) -> bool:
    own = record.auth.get("mcp_server_url")
    return isinstance(own, str) and plain_url(own) == plain_url(url)
