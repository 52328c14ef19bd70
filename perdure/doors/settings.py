"""What a server may be told. Every limit is a setting, and the error of a limit names it."""

from typing import Literal

import msgspec


class OidcSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[server.oidc]`: an OpenID provider whose tokens are accepted. Times in seconds.

    `jwks` is the address of its key set, or a file. `project_claim` and `role_claim` name the
    claims that say where the caller belongs and what it may do (dots lead into objects); `roles`
    translates what the provider says into viewer, operator, admin. Where a claim is missing
    `default_project` and `default_role` hold; "" refuses. Keys are read again after `max_age_s`.
    """

    issuer: str
    audience: str
    jwks: str
    project_claim: str = "perdure_project"
    role_claim: str = "perdure_role"
    roles: dict[str, Literal["viewer", "operator", "admin"]] = {}
    default_project: str = ""
    default_role: Literal["", "viewer", "operator", "admin"] = ""
    leeway_s: float = 30.0
    max_age_s: float = 3600.0


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[server]` of perdure.toml. Sizes in bytes, times in seconds.

    `models` maps the names that API clients write to `provider:model` (globs allowed; a name with
    a colon that is a key of none is refused). `default_model` serves a request without one.
    `stream_buffer` is how many events wait for a slow reader before it reads them from the store;
    one that takes nothing for `stall_s` is cut off. `drain_s` is how long what runs may go on when
    the server is told to end. `log` is `json`, `text`, or "" for what suits the terminal; `traces`
    sends spans to where OTEL_EXPORTER_OTLP_ENDPOINT says. `metrics`: `key` asks for one of any
    role; `loopback` does not of this machine, where only this machine can ask; `off`.

    `takeover_s` is how often it is looked for sessions that nobody works on, because their process
    died or gave them up (0: only when the server begins). `advertise` is the address at which the
    other nodes of the store reach this one; "" makes it from `host` and `port`.

    `environment` is the kind of sandbox that API sessions get. `vault_key_file` and
    `vault_key_command` say where the keys of the vault come from. `private_hosts` are globs over
    hosts that clients may name for us to connect to though their addresses are private.
    """

    host: str = "127.0.0.1"
    port: int = 8700
    models: dict[str, str] = {}
    default_model: str = ""
    max_body_bytes: int = 32 * 1024**2
    max_header_bytes: int = 64 * 1024
    max_connections: int = 10_000
    max_streams_per_key: int = 1000
    requests_per_minute: int = 6000
    stream_buffer: int = 1000
    keepalive_s: float = 15.0
    stall_s: float = 60.0
    drain_s: float = 20.0
    takeover_s: float = 2.0
    advertise: str = ""
    log: str = ""
    traces: bool = False
    metrics: Literal["loopback", "key", "off"] = "loopback"
    oidc: OidcSettings | None = None
    environment: str = "bubblewrap"
    vault_key_file: str = ""
    vault_key_command: str = ""
    private_hosts: tuple[str, ...] = ()
