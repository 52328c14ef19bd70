"""Vaults and credentials of the Agents API. Secrets go in and never come out."""

import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace
from starlette.responses import JSONResponse, Response

from perdure.doors.authorising import moment
from perdure.doors.credentials import CredentialRecord, Credentials, VaultRecord
from perdure.doors.http import Call, Endpoint
from perdure.doors.openai import lists
from perdure.doors.openai.agents import definitions
from perdure.doors.openai.problems import Wording

Json = dict[str, Any]

_STATUSES: Final = ("active", "archived")
_NAME_BYTES: Final = 256
_LONGEST: Final = 64 * 1024  # bytes of a secret
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_WAYS: Final = ("none", "client_secret_basic", "client_secret_post")


async def create(call: Call) -> Response:
    """POST /vaults."""
    body = await call.json()
    now = call.services.seconds()
    record = VaultRecord(
        id=call.services.new_id("vault_").lower(),
        created_at=now,
        updated_at=now,
        name=_name(body["name"]) if "name" in body else None,
        metadata=definitions.metadata(body.get("metadata")),
    )
    await _of(call).vaults.put(record.id, record, expect=0)
    return JSONResponse(vault_json(record))


async def retrieve(call: Call) -> Response:
    """GET /vaults/{id}."""
    return JSONResponse(vault_json((await _vault(call))[0]))


async def update(call: Call) -> Response:
    """POST /vaults/{id}: what is left out stays as it is."""
    body = await call.json()
    record, version = await _vault(call)
    _ensure_active(record)
    if "name" in body:
        record = replace(record, name=None if body["name"] is None else _name(body["name"]))
    if "metadata" in body:
        record = replace(record, metadata=definitions.metadata(body["metadata"]))
    record = replace(record, updated_at=call.services.seconds())
    await _of(call).vaults.put(record.id, record, expect=version)
    return JSONResponse(vault_json(record))


async def listed(call: Call) -> Response:
    """GET /vaults."""
    statuses, pairs = _statuses(call), call.metadata()
    found, more = await lists.documents(
        _of(call).vaults, call, lambda r: r.id, lambda r: _fits(r, statuses, pairs)
    )
    return lists.page([vault_json(record) for record in found], has_more=more)


async def delete(call: Call) -> Response:
    """DELETE /vaults/{id}, with all its credentials."""
    record, _ = await _vault(call)
    await _of(call).delete_vault(record.id)
    return JSONResponse({"id": record.id, "object": "vault.deleted", "deleted": True})


async def archive(call: Call) -> Response:
    """POST /vaults/{id}/archive: put it out of use and forget its secrets."""
    record, _ = await _vault(call)
    archived = await _of(call).archive_vault(record.id, call.services.seconds())
    return JSONResponse(vault_json(archived))


async def create_credential(call: Call) -> Response:
    """POST /vaults/{id}/credentials."""
    body = await call.json()
    vault, _ = await _vault(call)
    _ensure_active(vault)
    auth, secrets = _auth(body.get("auth"))
    now = call.services.seconds()
    record = CredentialRecord(
        id=call.services.new_id("cred_").lower(),
        vault_id=vault.id,
        created_at=now,
        updated_at=now,
        name=_name(body.get("name")),
        auth=auth,
        metadata=definitions.metadata(body.get("metadata")),
    )
    await _of(call).keep(record, secrets, expect=0)
    return JSONResponse(credential_json(record))


async def retrieve_credential(call: Call) -> Response:
    """GET /vaults/{id}/credentials/{cid}."""
    return JSONResponse(credential_json(await _credential(call)))


async def update_credential(call: Call) -> Response:
    """POST /vaults/{id}/credentials/{cid}: other metadata, or other secrets of the same kind."""
    body = await call.json()
    record = await _credential(call)
    _ensure_active(record)
    held = _of(call)
    secrets: Json | None = None
    if body.get("auth") is not None:
        auth, secrets = _rotated(record, body["auth"], await held.secrets(record))
        record = replace(record, auth=auth)
    if "metadata" in body:
        record = replace(record, metadata=definitions.metadata(body["metadata"]))
    record = replace(record, updated_at=call.services.seconds())
    await held.keep(record, secrets)
    return JSONResponse(credential_json(record))


async def listed_credentials(call: Call) -> Response:
    """GET /vaults/{id}/credentials."""
    vault, _ = await _vault(call)
    statuses, pairs = _statuses(call), call.metadata()
    found = [r for r in await _of(call).of(vault.id) if _fits(r, statuses, pairs)]
    return lists.paged([credential_json(record) for record in found], call)


async def delete_credential(call: Call) -> Response:
    """DELETE /vaults/{id}/credentials/{cid}."""
    record = await _credential(call)
    await _of(call).delete(record)
    return JSONResponse({"id": record.id, "object": "vault.credential.deleted", "deleted": True})


async def archive_credential(call: Call) -> Response:
    """POST /vaults/{id}/credentials/{cid}/archive: put it out of use and forget its secrets."""
    archived = await _of(call).archive(await _credential(call), call.services.seconds())
    return JSONResponse(credential_json(archived))


def vault_json(record: VaultRecord) -> Json:
    """Return a vault as it is read."""
    return {
        "id": record.id,
        "object": "vault",
        "created_at": record.created_at,
        "name": record.name,
        "metadata": record.metadata,
        "status": "active" if record.archived_at is None else "archived",
    }


def credential_json(record: CredentialRecord) -> Json:
    """Return a credential as it is read: without its secrets, which the record does not have."""
    return {
        "id": record.id,
        "object": "vault.credential",
        "vault_id": record.vault_id,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "name": record.name,
        "metadata": record.metadata,
        "auth": record.auth,
        "status": "active" if record.archived_at is None else "archived",
    }


def _of(call: Call) -> Credentials:
    store = call.engine.kit.store
    return Credentials(store, call.services.vault(call.principal.project))


async def _vault(call: Call) -> tuple[VaultRecord, int]:
    name, vaults = call.path["vault_id"], _of(call).vaults
    if await vaults.find(name) is None:
        raise Wording(404, f"No vault found with id '{name}'.", param="vault_id")
    return await vaults.versioned(name)


async def _credential(call: Call) -> CredentialRecord:
    name = call.path["credential_id"]
    record = await _of(call).find(call.path["vault_id"], name)
    if record is None:
        raise Wording(404, f"No credential found with id '{name}'.", param="credential_id")
    return record


def _ensure_active(record: VaultRecord | CredentialRecord) -> None:
    if record.archived_at is not None:
        raise Wording(400, f"{record.id} is archived.", code="archived")


def _statuses(call: Call) -> list[str]:
    wanted = call.queries("status")
    if not set(wanted) <= set(_STATUSES):
        raise Wording(400, "status is active or archived.", param="status")
    return wanted or list(_STATUSES)


def _fits(
    record: VaultRecord | CredentialRecord, statuses: list[str], pairs: Mapping[str, str]
) -> bool:
    status = "active" if record.archived_at is None else "archived"
    return status in statuses and pairs.items() <= record.metadata.items()


def _name(value: object) -> str:
    name = value.strip() if isinstance(value, str) else ""
    if not 1 <= len(name.encode("utf-8", "replace")) <= _NAME_BYTES:
        raise Wording(400, f"name is a text of 1 to {_NAME_BYTES} bytes.", param="name")
    return name


def _auth(value: object) -> tuple[Json, Json]:
    """Return what may be read of an `auth`, and its secrets. Raises `Wording` (400)."""
    if not isinstance(value, Mapping):
        raise Wording(400, "A credential needs auth.", param="auth")
    match value.get("type"):
        case "static_bearer":
            shown: Json = {
                "type": "static_bearer",
                "mcp_server_url": _text(value, "mcp_server_url"),
            }
            return shown, {"token": _text(value, "token")}
        case "environment_variable":
            name = _text(value, "secret_name")
            if not _VARIABLE.match(name):
                said = "secret_name is a variable's name: letters, digits and _."
                raise Wording(400, said, param="auth.secret_name")
            shown = {"type": "environment_variable", "secret_name": name}
            shown["networking"] = _networking(value.get("networking"))
            return shown, {"secret_value": _text(value, "secret_value")}
        case "mcp_oauth":
            return _oauth(value)
        case kind:
            raise Wording(400, f"There is no credential of type {kind!r}.", param="auth.type")


def _oauth(value: Mapping[str, Any]) -> tuple[Json, Json]:
    expires_at = _expires_at(value.get("expires_at"))
    shown: Json = {
        "type": "mcp_oauth",
        "mcp_server_url": _text(value, "mcp_server_url"),
        "expires_at": expires_at,
        "refresh": None,
    }
    secrets: Json = {"access_token": _text(value, "access_token"), "expires_at": expires_at}
    refresh = value.get("refresh")
    if refresh is None:
        return shown, secrets
    if not isinstance(refresh, Mapping):
        raise Wording(400, "refresh is an object.", param="auth.refresh")
    way, secret = _way(refresh.get("token_endpoint_auth"))
    secrets["refresh_token"] = _text(refresh, "refresh_token", "auth.refresh")
    if secret is not None:
        secrets["client_secret"] = secret
    shown["refresh"] = {
        "client_id": _text(refresh, "client_id", "auth.refresh"),
        "token_endpoint": _text(refresh, "token_endpoint", "auth.refresh"),
        "token_endpoint_auth": {"type": way},
        "scope": _optional(refresh.get("scope"), "auth.refresh.scope"),
        "resource": _optional(refresh.get("resource"), "auth.refresh.resource"),
    }
    return shown, secrets


def _rotated(record: CredentialRecord, value: object, secrets: Json) -> tuple[Json, Json]:
    """Return a credential's `auth` with what replaces it, and its secrets."""
    if not isinstance(value, Mapping) or value.get("type") != record.auth["type"]:
        said = f"auth is of type {record.auth['type']}; that cannot be changed."
        raise Wording(400, said, param="auth.type")
    match record.auth["type"]:
        case "static_bearer":
            return record.auth, {"token": _text(value, "token")}
        case "environment_variable":
            return record.auth, {"secret_value": _text(value, "secret_value")}
        case _:
            return _rotated_oauth(record.auth, value, dict(secrets))


def _rotated_oauth(auth: Json, value: Mapping[str, Any], secrets: Json) -> tuple[Json, Json]:
    shown = dict(auth)
    if value.get("access_token") is not None:
        secrets["access_token"] = _text(value, "access_token")
        # A new token lives as long as is said of it, not as long as the one before.
        shown["expires_at"] = secrets["expires_at"] = None
    if value.get("expires_at") is not None:
        shown["expires_at"] = secrets["expires_at"] = _expires_at(value["expires_at"])
    refresh = value.get("refresh")
    if refresh is None:
        return shown, secrets
    if not isinstance(refresh, Mapping) or shown["refresh"] is None:
        said = "This credential has no refresh to change: make another one."
        raise Wording(400, said, param="auth.refresh")
    shown["refresh"] = dict(shown["refresh"])
    if refresh.get("refresh_token") is not None:
        secrets["refresh_token"] = _text(refresh, "refresh_token", "auth.refresh")
    if "scope" in refresh:
        shown["refresh"]["scope"] = _optional(refresh["scope"], "auth.refresh.scope")
    given = refresh.get("token_endpoint_auth")
    if given is not None:
        old = secrets.get("client_secret")
        if isinstance(given, Mapping) and given.get("client_secret") is None and old:
            given = {**given, "client_secret": old}
        way, secret = _way(given)
        shown["refresh"]["token_endpoint_auth"] = {"type": way}
        secrets["client_secret"] = secret
    return shown, secrets


def _way(value: object) -> tuple[str, str | None]:
    """Return how we say who we are at a token endpoint, and the secret of it."""
    where = "auth.refresh.token_endpoint_auth"
    if not isinstance(value, Mapping) or value.get("type") not in _WAYS:
        raise Wording(400, f"token_endpoint_auth is one of {', '.join(_WAYS)}.", param=where)
    if value["type"] == "none":
        return "none", None
    return str(value["type"]), _text(value, "client_secret", where)


def _networking(value: object) -> Json:
    where = "auth.networking"
    if isinstance(value, Mapping) and value.get("type") == "unrestricted":
        return {"type": "unrestricted"}
    hosts = value.get("allowed_hosts") if isinstance(value, Mapping) else None
    if not isinstance(hosts, list) or not all(isinstance(host, str) and host for host in hosts):
        raise Wording(400, "networking is unrestricted, or limited to allowed_hosts.", param=where)
    return {"type": "limited", "allowed_hosts": hosts}


def _text(value: Mapping[str, Any], name: str, where: str = "auth") -> str:
    found = value.get(name)
    if not isinstance(found, str) or not 0 < len(found.encode("utf-8", "replace")) <= _LONGEST:
        # What was sent is not repeated: it may be a secret in the wrong place.
        raise Wording(400, f"{where}.{name} is a text that is not empty.", param=f"{where}.{name}")
    return found


def _optional(value: object, param: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise Wording(400, f"{param} is a text.", param=param)
    return value


def _expires_at(value: object) -> str | None:
    if value is not None and moment(value) is None:
        raise Wording(400, "expires_at is a time as in RFC 3339.", param="auth.expires_at")
    return str(value) if value is not None else None


_ONE: Final = "/vaults/{vault_id}"
_ALL: Final = "/vaults/{vault_id}/credentials"
_EACH: Final = "/vaults/{vault_id}/credentials/{credential_id}"

ENDPOINTS: Final = (
    Endpoint("POST", "/vaults", create, "operator", "vaults.create"),
    Endpoint("GET", "/vaults", listed, "viewer", "vaults.list"),
    Endpoint("GET", _ONE, retrieve, "viewer", "vaults.retrieve"),
    Endpoint("POST", _ONE, update, "operator", "vaults.update"),
    Endpoint("DELETE", _ONE, delete, "operator", "vaults.delete"),
    Endpoint("POST", f"{_ONE}/archive", archive, "operator", "vaults.archive"),
    Endpoint("POST", _ALL, create_credential, "operator", "credentials.create"),
    Endpoint("GET", _ALL, listed_credentials, "viewer", "credentials.list"),
    Endpoint("GET", _EACH, retrieve_credential, "viewer", "credentials.retrieve"),
    Endpoint("POST", _EACH, update_credential, "operator", "credentials.update"),
    Endpoint("DELETE", _EACH, delete_credential, "operator", "credentials.delete"),
    Endpoint("POST", f"{_EACH}/archive", archive_credential, "operator", "credentials.archive"),
)  # fmt: skip
