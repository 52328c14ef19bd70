"""Tokens of an OpenID provider: those that hold, and all the ways in which they are forged."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey
from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from perdure.core.errors import InvalidRequest, Unavailable
from perdure.doors.principals import Principal, Unauthenticated
from perdure.doors.settings import OidcSettings, ServerSettings
from perdure.doors.tokens import Tokens
from perdure.serving.jwks import key_set_at
from perdure.testing.clocks import FakeClock
from tests.doors.listening import listening
from tests.doors.serving import up

NOW_S = 1_800_000_000
RSA = RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"})
OTHER = RSAKey.generate_key(2048, {"kid": "other", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})
SETTINGS = OidcSettings("https://id.example", "perdure", "keys", leeway_s=5.0)
CLAIMS: dict[str, Any] = {
    "iss": "https://id.example",
    "aud": "perdure",
    "sub": "anna",
    "exp": NOW_S + 60,
    "perdure_project": "shop",
    "perdure_role": "operator",
}


class Provider:
    """What publishes keys, and counts how often it is asked."""

    def __init__(self, *keys: RSAKey | ECKey | OKPKey) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.down = False

    async def fetch(self) -> bytes:
        self.asked += 1
        if self.down:
            raise OSError("the provider is down")
        odd = [{"kty": "AKP", "kid": "odd"}, {"kty": "RSA"}, 5]
        return json.dumps(
            {"keys": [*odd, *(key.as_dict(private=False) for key in self.keys)]}
        ).encode()


def tokens(
    provider: Provider, settings: OidcSettings = SETTINGS, clock: FakeClock | None = None
) -> Tokens:
    return Tokens(settings, provider.fetch, clock or FakeClock(NOW_S * 1_000_000))


def signed(
    key: RSAKey | ECKey | OKPKey = RSA, alg: str = "RS256", kid: str | None = None, **changes: Any
) -> str:
    claims = {k: v for k, v in (CLAIMS | changes).items() if v is not None}
    header = {"alg": alg, "kid": kid if kid is not None else key.kid}
    return jwt.encode(header, claims, key, algorithms=[alg])


def part(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("key", "alg"), [(RSA, "RS256"), (RSA, "PS512"), (EC, "ES256"), (ED, "Ed25519")]
)
async def test_a_token_that_holds(key: RSAKey | ECKey | OKPKey, alg: str) -> None:
    found = await tokens(Provider(RSA, EC, ED)).principal(signed(key, alg, name="Anna"))
    assert found == Principal("oidc:anna", "shop", "operator", "Anna")


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": NOW_S - 6}, {"exp": None}, {"exp": "tomorrow"}, {"exp": True},
        {"nbf": NOW_S + 6}, {"iat": NOW_S + 60}, {"nbf": "x"},
        {"iss": "https://evil.example"}, {"iss": None}, {"iss": ["https://id.example"]},
        {"aud": "another"}, {"aud": None}, {"aud": []}, {"aud": {"perdure": 1}},
        {"sub": None}, {"sub": ""}, {"sub": 5},
        {"perdure_project": None}, {"perdure_role": None}, {"perdure_role": "god"},
        {"perdure_role": {"admin": True}},
    ],
    ids=str,
)  # fmt: skip
async def test_claims_that_do_not_hold(changes: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        await tokens(Provider(RSA)).principal(signed(**changes))


@pytest.mark.parametrize(
    "changes", [{"exp": NOW_S - 4}, {"nbf": NOW_S + 4}, {"aud": ["x", "perdure"]}], ids=str
)
async def test_claims_that_just_hold(changes: dict[str, Any]) -> None:
    assert await tokens(Provider(RSA)).principal(signed(**changes))


def _forgeries() -> dict[str, str]:
    good = signed()
    head, body, signature = good.split(".")
    public = RSA.as_pem(private=False)
    confused = part({"alg": "HS256", "kid": "rsa"}) + "." + part(CLAIMS)
    mac = hmac.new(public, confused.encode(), hashlib.sha256).digest()
    jwk = OTHER.as_dict(private=False)
    return {
        "no signature": f"{head}.{body}.",
        "alg none": f"{part({'alg': 'none'})}.{part(CLAIMS)}.",
        "alg None": f"{part({'alg': 'None', 'kid': 'rsa'})}.{part(CLAIMS)}.",
        "the public key as a password": f"{confused}.{part(mac)}",
        "other claims": f"{head}.{part(CLAIMS | {'perdure_role': 'admin'})}.{signature}",
        "another key of that name": signed(OTHER, kid="rsa"),
        "another key, unnamed": signed(OTHER, kid=""),
        "a key it brings itself": jwt.encode({"alg": "RS256", "jwk": jwk}, CLAIMS, OTHER),
        "an algorithm of another key": f"{part({'alg': 'ES256', 'kid': 'rsa'})}.{body}.{signature}",
        "no algorithm": f"{part({'kid': 'rsa'})}.{body}.{signature}",
        "an algorithm that is a list": f"{part({'alg': ['RS256']})}.{body}.{signature}",
        "a critical header": f"{part({'alg': 'RS256', 'crit': ['x']})}.{body}.{signature}",
        "a header that is no object": f"{part([])}.{body}.{signature}",
        "a header that is no JSON": f"{part(b'{')}.{body}.{signature}",
        "deep nesting": f"{part(b'[' * 5000)}.{body}.{signature}",
        "claims that are no object": f"{head}.{part([])}.{signature}",
        "odd characters": f"{head}.{body}.é\ud800",
        "a header of odd characters": f"é\ud800.{body}.{signature}",
        "only dots": "..",
    }


@pytest.mark.parametrize("name", _forgeries())
async def test_a_forged_token(name: str) -> None:
    with pytest.raises(Unauthenticated):
        await tokens(Provider(RSA)).principal(_forgeries()[name])


async def test_what_is_no_token() -> None:
    for text in ("pdk_x", "a.b", "a.b.c.d", "x" * 20_000 + "." + "y" * 9 + ".z", ""):
        assert await tokens(Provider(RSA)).principal(text) is None


async def test_an_unknown_key_is_asked_for_once_a_minute() -> None:
    clock, provider = FakeClock(NOW_S * 1_000_000), Provider(RSA)
    authority = tokens(provider, clock=clock)
    assert await authority.principal(signed())
    for number in range(50):
        with pytest.raises(Unauthenticated):
            await authority.principal(signed(OTHER, kid=f"made-up-{number}"))
    assert provider.asked == 1
    provider.keys.append(OTHER)
    clock.advance(61.0)
    assert await authority.principal(signed(OTHER, exp=NOW_S + 600))
    assert provider.asked == 2
    assert await authority.principal(signed(exp=NOW_S + 600))
    assert provider.asked == 2, "known keys ask nobody"


async def test_a_key_that_was_withdrawn_is_forgotten_in_time() -> None:
    clock, provider = FakeClock(NOW_S * 1_000_000), Provider(RSA, OTHER)
    authority = tokens(provider, clock=clock)
    later = NOW_S + 8000
    assert await authority.principal(signed(OTHER, exp=later))
    provider.keys.remove(OTHER)
    clock.advance(3601.0)
    with pytest.raises(Unauthenticated):
        await authority.principal(signed(OTHER, exp=later))
    provider.down = True
    clock.advance(3601.0)
    assert await authority.principal(signed(exp=later)), "known keys hold while it is down"


async def test_a_provider_that_is_down_is_no_reason_to_trust() -> None:
    clock, provider = FakeClock(NOW_S * 1_000_000), Provider(RSA)
    provider.down = True
    authority = tokens(provider, clock=clock)
    for _ in range(3):
        with pytest.raises(Unavailable) as refused:
            await authority.principal(signed())
        assert refused.value.code == "E-OIDC-KEYS"
    assert provider.asked == 1
    provider.down = False
    clock.advance(61.0)
    assert await authority.principal(signed(exp=NOW_S + 600))


async def test_claims_are_translated() -> None:
    roles = {"ops-team": "operator", "owners": "admin"}
    settings = replace(
        SETTINGS, role_claim="realm.roles", project_claim="https://x.example/p", roles=roles,
        default_project="lobby", default_role="viewer",
    )  # fmt: skip
    authority = tokens(Provider(RSA), settings)
    claims: dict[str, Any] = {
        "realm": {"roles": ["ops-team", "owners", "x"]},
        "https://x.example/p": "lab",
    }
    assert await authority.principal(signed(**claims)) == Principal("oidc:anna", "lab", "admin")
    bare = await authority.principal(signed(perdure_role="admin"))
    assert bare == Principal("oidc:anna", "lobby", "viewer")
    with pytest.raises(Unauthenticated):  # the provider's own "admin" is nobody here
        await authority.principal(signed(realm={"roles": ["admin"]}))


@pytest.fixture
async def published() -> AsyncIterator[str]:
    async def keys(request: Request) -> Response:
        return Response(await Provider(RSA).fetch(), media_type="application/json")

    async def huge(request: Request) -> Response:
        return Response(b" " * 2_000_000)

    async def away(request: Request) -> Response:
        return Response(status_code=302, headers={"location": "/keys"})

    routes = [Route("/keys", keys), Route("/huge", huge), Route("/away", away)]
    async with listening(Starlette(routes=routes)) as url:
        yield url


async def test_keys_are_read_from_an_address_or_a_file(published: str, tmp_path: Path) -> None:
    data = await key_set_at(f"{published}/keys")()
    assert b'"rsa"' in data
    for path in ("huge", "away", "missing"):
        with pytest.raises(OSError, match=path):
            await key_set_at(f"{published}/{path}")()
    file = tmp_path / "keys.json"
    file.write_bytes(data)
    assert await key_set_at(str(file))() == data
    with pytest.raises(OSError, match="gone"):
        await key_set_at(str(tmp_path / "gone.json"))()
    for where in ("http://id.example/keys", ""):
        with pytest.raises(InvalidRequest):
            key_set_at(where)


async def test_a_server_that_knows_tokens(published: str, tmp_path: Path) -> None:
    oidc = replace(SETTINGS, jwks=f"{published}/keys")
    async with (
        up({}, tmp_path / "s.db", settings=ServerSettings(oidc=oidc)) as server,
        httpx2.AsyncClient(base_url=server.url) as client,
    ):

        async def status(token: str, method: str = "GET") -> int:
            headers = {"authorization": f"Bearer {token}"}
            path = "/openai/v1/responses/resp_none"
            return (await client.request(method, path, headers=headers)).status_code

        far = 4_000_000_000
        assert await status(signed(exp=far)) == 404
        assert await status(signed(exp=far, perdure_role="viewer"), "DELETE") == 403
        assert await status(signed(exp=NOW_S - 900_000_000)) == 401
        assert await status(signed(OTHER, exp=far)) == 401
        assert await status(await server.key()) == 404
