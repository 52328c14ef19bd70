"""Who calls: a principal belongs to one project and has one role there.

Keys are random 256-bit values, so a plain digest of them can be stored and looked up; the key
itself is shown once and kept nowhere.
"""

import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import msgspec
from msgspec.structs import replace

from perdure.core.codec import decode, encode
from perdure.core.errors import Forbidden, InvalidRequest, NotFound
from perdure.ports.clock import Clock, Ids
from perdure.ports.store import Store

Role = Literal["viewer", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = ("viewer", "operator", "admin")
PREFIX: Final = "pdk_"
_KIND: Final = "api-key"


@dataclass(frozen=True)
class Principal:
    """One caller. `id` names the key or the token's subject; it is what journals record."""

    id: str
    project: str
    role: Role
    name: str = ""

    def may(self, role: Role) -> bool:
        """Whether this caller has at least `role`."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Authority(Protocol):
    """Knows some kind of credential."""

    async def principal(self, token: str) -> Principal | None:
        """Return whom `token` belongs to, or None when it is not a token of this kind.

        Raises `Unauthenticated` when it is one, and not valid.
        """
        ...


class Unauthenticated(Forbidden):
    """Nobody knows who calls."""


def role_of(text: str) -> Role:
    """Return the role of that name. Raises `InvalidRequest` (E-ROLE)."""
    for role in ROLES:
        if role == text:
            return role
    raise InvalidRequest("E-ROLE", f"{text!r} is no role.", f"One of {', '.join(ROLES)}.")


class KeyRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept of an API key: everything but the key. Times in microseconds."""

    id: str
    digest: str
    project: str
    role: Role
    name: str = ""
    made_at_us: int = 0
    expires_at_us: int | None = None
    revoked_at_us: int | None = None
    by: str = ""


class Keys:
    """The API keys of all projects. Implements `Authority`.

    `random` gives that many random bytes. `store` is the one beneath all projects.
    """

    def __init__(
        self, store: Store, clock: Clock, ids: Ids, random: Callable[[int], bytes]
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._random = random

    async def make(
        self,
        project: str,
        role: Role,
        *,
        name: str = "",
        expires_at_us: int | None = None,
        by: str = "",
    ) -> tuple[KeyRecord, str]:
        """Make a key; return its record and the key, which nobody can show again."""
        role_of(role)  # refuses what is none, also of callers without types
        now_us = self._clock.now_us()
        secret = base64.urlsafe_b64encode(self._random(32)).rstrip(b"=").decode()
        key = PREFIX + secret
        digest = _digest(key)
        record = KeyRecord(
            f"key_{digest[:16]}", digest, project, role, name, now_us, expires_at_us, None, by
        )
        await self._store.put_doc(_KIND, digest, encode(record), expect=0)
        return record, key

    async def principal(self, token: str) -> Principal | None:
        """See `Authority.principal`."""
        if not token.startswith(PREFIX):
            return None
        digest = _digest(token)
        doc = await self._store.doc(_KIND, digest)
        record = decode(doc.data, KeyRecord) if doc else None
        if record is None or not hmac.compare_digest(record.digest, digest):
            raise _refused("This API key is not known.")
        if record.revoked_at_us is not None:
            raise _refused("This API key was revoked.")
        if record.expires_at_us is not None and record.expires_at_us <= self._clock.now_us():
            raise _refused("This API key has expired.")
        return Principal(record.id, record.project, record.role, record.name)

    async def all(self, project: str | None = None) -> list[KeyRecord]:
        """Return the keys of a project, or of all, the oldest first."""
        records = [decode(doc.data, KeyRecord) for doc in await self._store.docs(_KIND)]
        fitting = [r for r in records if project is None or r.project == project]
        return sorted(fitting, key=lambda r: (r.made_at_us, r.id))

    async def any(self) -> bool:
        """Whether a key was ever made here."""
        return bool(await self._store.docs(_KIND, limit=1))

    async def revoke(self, id: str, project: str | None = None) -> KeyRecord:
        """Revoke the key with that id. Raises `NotFound`; again is no error."""
        record = next((r for r in await self.all(project) if r.id == id), None)
        if record is None:
            raise NotFound("E-KEY-UNKNOWN", f"There is no API key {id}.", "perdure admin keys ls")
        if record.revoked_at_us is None:
            record = replace(record, revoked_at_us=self._clock.now_us())
            await self._store.put_doc(_KIND, record.digest, encode(record))
        return record


async def identify(authorities: "list[Authority]", token: str) -> Principal:
    """Return whom `token` belongs to. Raises `Unauthenticated`."""
    if not token:
        raise _refused("No API key came with the request.")
    for authority in authorities:
        principal = await authority.principal(token)
        if principal is not None:
            return principal
    raise _refused("This is no API key of this server.")


Identify = Callable[[str], Awaitable[Principal]]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated("E-AUTH", why, "Send Authorization: Bearer KEY; perdure admin keys new")
