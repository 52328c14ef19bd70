"""Bearer tokens of an OpenID provider: JSON Web Tokens (RFC 7519), checked with its public keys.

Only signatures with a public key are accepted: `none` proves nothing, and an HMAC would make the
provider's published key a password that everybody knows.
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

from perdure.core.errors import Unavailable
from perdure.doors.principals import ROLES, Principal, Role, Unauthenticated
from perdure.doors.settings import OidcSettings
from perdure.ports.clock import Clock

ALGORITHMS: Final[Mapping[str, type[RSAKey] | type[ECKey] | type[OKPKey]]] = {
    "RS256": RSAKey, "RS384": RSAKey, "RS512": RSAKey,
    "PS256": RSAKey, "PS384": RSAKey, "PS512": RSAKey,
    "ES256": ECKey, "ES384": ECKey, "ES512": ECKey,
    "Ed25519": OKPKey, "EdDSA": OKPKey,
}  # fmt: skip
_TOKEN_BYTES: Final = 16 * 1024
_ASK_AGAIN_US: Final = 60 * 1_000_000  # a key that nobody knows is asked for once in this time

Fetch = Callable[[], Awaitable[bytes]]
PublicKey = RSAKey | ECKey | OKPKey


class Tokens:
    """Knows the tokens of one provider. Implements `Authority`.

    `fetch` reads the provider's key set; it is asked when there is none yet, when it is older than
    `max_age_s`, and for a key that is not in it, but then at most once a minute.
    """

    def __init__(self, settings: OidcSettings, fetch: Fetch, clock: Clock) -> None:
        self._settings = settings
        self._fetch = fetch
        self._clock = clock
        self._keys: list[PublicKey] = []
        self._read_at_us: int | None = None
        self._asked_at_us: int | None = None
        self._turn = asyncio.Lock()

    async def principal(self, token: str) -> Principal | None:
        """See `Authority.principal`. Raises `Unavailable` (E-OIDC-KEYS) while the provider's keys
        cannot be had.
        """
        if token.count(".") != 2 or len(token) > _TOKEN_BYTES:
            return None
        header = _header(token)
        kind = ALGORITHMS.get(str(header.get("alg")))
        if kind is None:
            raise _refused("is not signed with a public key")
        if "crit" in header:
            raise _refused("asks for what this server does not know")
        for key in await self._fitting(header.get("kid"), kind):
            try:
                claims = jwt.decode(token, key, algorithms=[header["alg"]]).claims
            except (JoseError, ValueError, TypeError, RecursionError):
                continue
            self._check(claims)
            return self._known(claims)
        raise _refused("has a signature that does not fit")

    async def _fitting(self, kid: object, kind: type[PublicKey]) -> list[PublicKey]:
        await self._refreshed(lambda: not _among(self._keys, kid, kind))
        return _among(self._keys, kid, kind)

    async def _refreshed(self, is_missing: Callable[[], bool]) -> None:
        async with self._turn:
            now_us = self._clock.now_us()
            age_us = None if self._read_at_us is None else now_us - self._read_at_us
            old = age_us is None or age_us > self._settings.max_age_s * 1_000_000
            if not (old or is_missing()):
                return
            if self._asked_at_us is not None and now_us - self._asked_at_us < _ASK_AGAIN_US:
                if age_us is None:
                    raise _no_keys("they could not be read a moment ago")
                return  # what is known still holds for a while
            self._asked_at_us = now_us
            try:
                self._keys = _public_keys(await self._fetch())
                self._read_at_us = now_us
            except (OSError, ValueError, JoseError) as error:
                if age_us is None or age_us > 24 * self._settings.max_age_s * 1_000_000:
                    raise _no_keys(str(error) or type(error).__name__) from error

    def _check(self, claims: Mapping[str, Any]) -> None:
        settings, now_s = self._settings, self._clock.now_us() / 1_000_000
        audience = claims.get("aud")
        meant = audience if isinstance(audience, list) else [audience]
        if claims.get("iss") != settings.issuer:
            raise _refused("is of another issuer")
        if settings.audience not in meant:
            raise _refused("is meant for somebody else")
        if not _is_number(claims.get("exp")) or claims["exp"] + settings.leeway_s <= now_s:
            raise _refused("has expired")
        for name in ("nbf", "iat"):
            if name in claims and (
                not _is_number(claims[name]) or claims[name] - settings.leeway_s > now_s
            ):
                raise _refused("is not valid yet")

    def _known(self, claims: Mapping[str, Any]) -> Principal:
        settings = self._settings
        subject = claims.get("sub")
        if not isinstance(subject, str) or not subject:
            raise _refused("says not whose it is")
        projects = _texts(_claim(claims, settings.project_claim)) or [settings.default_project]
        if not projects[0]:
            raise _refused("names no project")
        said = _texts(_claim(claims, settings.role_claim))
        given = [settings.roles.get(each, "") for each in said] if settings.roles else said
        roles: list[Role] = [role for role in ROLES if role in (given or [settings.default_role])]
        if not roles:
            raise _refused("gives no role here")
        name = claims.get("name")
        return Principal(
            f"oidc:{subject}", projects[0], roles[-1], name if isinstance(name, str) else ""
        )


def _header(token: str) -> dict[str, Any]:
    part = token.partition(".")[0]
    try:
        value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError) as error:
        raise _refused("cannot be read") from error
    if not isinstance(value, dict):
        raise _refused("cannot be read")
    return value


def _public_keys(data: bytes) -> list[PublicKey]:
    """Return the keys that sign, without what is secret or of other kinds."""
    value = json.loads(data)
    given = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(given, list):
        raise ValueError("it is no set of keys")  # noqa: TRY004 - of the data, not of our call
    found: list[PublicKey] = []
    for each in given:
        try:
            keys = KeySet.import_key_set({"keys": [each]}).keys
        except (JoseError, ValueError, TypeError, KeyError, AttributeError):
            continue  # RFC 7517, section 5: keys that are not understood are passed over
        usable = isinstance(each, dict) and each.get("use", "sig") == "sig"
        found += [k for k in keys if usable and isinstance(k, RSAKey | ECKey | OKPKey)]
    return found


def _among(keys: list[PublicKey], kid: object, kind: type[PublicKey]) -> list[PublicKey]:
    return [key for key in keys if isinstance(key, kind) and kid in (None, key.kid)]


def _claim(claims: Mapping[str, Any], path: str) -> object:
    """Return a claim; dots lead into objects, unless a claim has that very name."""
    if not path or path in claims:
        return claims.get(path)
    value: object = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str) and each]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated("E-AUTH", f"This token {why}.", "Get a new one from your provider.")


def _no_keys(why: str) -> Unavailable:
    return Unavailable(
        "E-OIDC-KEYS",
        f"The keys of the OpenID provider cannot be had: {why}. No token can be checked now.",
        "[server.oidc] jwks",
        retry_after_s=60.0,
    )
