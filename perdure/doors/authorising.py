"""What authorises us at an MCP server: looked up for each request, renewed when it has run out."""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from perdure.core.errors import Conflict, NotFound, PerdureError, Unavailable
from perdure.core.secrets import Secret
from perdure.doors.credentials import CredentialRecord, Credentials, ensure_for
from perdure.ports.clock import Clock

Json = dict[str, Any]

_EARLY: Final = timedelta(seconds=60)  # a token that is about to run out counts as run out
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Answered(NamedTuple):
    """What a token endpoint answered."""

    status: int
    body: bytes


PostForm = Callable[[str, Mapping[str, str], Mapping[str, str]], Awaitable[Answered]]
"""Post a form to a URL with headers. Raises `Forbidden`, `Unavailable`; never follows redirects."""


class Authoriser:
    """Gives the tokens that authorise us, for one project."""

    def __init__(self, credentials: Credentials, clock: Clock, post: PostForm) -> None:
        self._credentials = credentials
        self._clock = clock
        self._post = post
        self._renewing: dict[str, asyncio.Lock] = {}

    async def token(self, key: str, url: str) -> Secret:
        """Return the bearer token for a request to the MCP server `url` under the credential `key`.

        Raises `Unavailable` (E-VAULT-REFRESH, E-VAULT-KEY, E-CREDENTIAL) and `Forbidden`.
        """
        record = await self._credentials.all.find(key)
        if record is None or record.archived_at is not None:
            raise _gone(key)
        ensure_for(record, url)
        secrets = await self._credentials.secrets(record)
        if record.auth["type"] == "mcp_oauth":
            secrets = await self._fresh(record, secrets)
            return Secret(secrets["access_token"])
        return Secret(secrets["token"])

    async def _fresh(self, record: CredentialRecord, secrets: Json) -> Json:
        """Return secrets with an access token that has not run out."""
        if not self._is_over(secrets) or "refresh_token" not in secrets:
            return secrets
        async with self._renewing.setdefault(record.key, asyncio.Lock()):
            secrets = await self._credentials.secrets(record)
            if not self._is_over(secrets):
                return secrets  # somebody renewed it while we waited
            try:
                return await self._renewed(record, secrets)
            except PerdureError:
                # Another process may have renewed it: then the token we used up is an old one.
                now = await self._left(record)
                if now.get("access_token") != secrets.get("access_token"):
                    return now
                raise

    async def _renewed(self, record: CredentialRecord, secrets: Json) -> Json:
        refresh = record.auth["refresh"]
        form = {"grant_type": "refresh_token", "refresh_token": secrets["refresh_token"]}
        form |= {name: refresh[name] for name in ("scope", "resource") if refresh.get(name)}
        headers = {"accept": "application/json"}
        client, secret = str(refresh["client_id"]), str(secrets.get("client_secret") or "")
        match refresh["token_endpoint_auth"]["type"]:
            case "client_secret_basic":
                pair = f"{quote(client, safe='')}:{quote(secret, safe='')}"
                headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
            case "client_secret_post":
                form |= {"client_id": client, "client_secret": secret}
            case _:
                form["client_id"] = client
        answered = await self._post(str(refresh["token_endpoint"]), form, headers)
        renewed = self._read(record, answered, secrets)
        await self._keep(record, renewed)
        return renewed

    async def _keep(self, record: CredentialRecord, renewed: Json) -> None:
        """Seal what was renewed, unless the credential was put out of use meanwhile: then its
        secrets stay forgotten. Raises `Unavailable` (E-CREDENTIAL), `Conflict`.
        """
        held = self._credentials
        doc = await held.all.find(record.key) and await held.all.versioned(record.key)
        if not doc or doc[0].archived_at is not None:
            raise _gone(record.key)
        now, version = doc
        shown = {**now.auth, "expires_at": renewed.get("expires_at")}
        at = self._clock.now_us() // 1_000_000
        try:
            await held.keep(replace(now, auth=shown, updated_at=at), renewed, expect=version)
        except Conflict:
            left = await held.all.find(record.key)
            if left is None or left.archived_at is not None:
                await held.forget(record.key)
                raise _gone(record.key) from None
            raise

    def _read(self, record: CredentialRecord, answered: Answered, secrets: Json) -> Json:
        """Return the secrets with what a token endpoint gave us. What it said is not repeated."""
        given: object = None
        try:
            given = msgspec.json.decode(answered.body) if answered.status == 200 else None
        except (msgspec.DecodeError, binascii.Error):
            given = None
        token = given.get("access_token") if isinstance(given, dict) else None
        if not isinstance(given, dict) or not isinstance(token, str) or not token:
            raise Unavailable(
                "E-VAULT-REFRESH",
                f"The token endpoint of credential {record.id} gave no new token (HTTP status "
                f"{answered.status}). The old one stays sealed.",
                "Authorise again and store the new tokens in the credential.",
            )
        found = {**secrets, "access_token": token, "expires_at": None}
        if isinstance(given.get("refresh_token"), str):
            found["refresh_token"] = given["refresh_token"]
        lives_s = given.get("expires_in")
        if isinstance(lives_s, int | float) and not isinstance(lives_s, bool) and lives_s > 0:
            ends = self._now() + timedelta(seconds=min(lives_s, 10**9))
            found["expires_at"] = ends.isoformat()
        return found

    async def _left(self, record: CredentialRecord) -> Json:
        """Return the secrets as they are now; none when they were forgotten."""
        try:
            return await self._credentials.secrets(record)
        except NotFound:
            raise _gone(record.key) from None

    def _is_over(self, secrets: Json) -> bool:
        ends = moment(secrets.get("expires_at"))
        return ends is not None and ends - _EARLY <= self._now()

    def _now(self) -> datetime:
        return _EPOCH + timedelta(microseconds=self._clock.now_us())


def _gone(key: str) -> Unavailable:
    return Unavailable(
        "E-CREDENTIAL", f"The credential {key.rpartition('/')[2]} is not there any more."
    )


def moment(text: object) -> datetime | None:
    """Return the moment that an RFC 3339 text names, or None."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
