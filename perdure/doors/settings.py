"""What a server may be told. Every limit is a setting, and the error of a limit names it."""

import msgspec


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[server]` of perdure.toml. Sizes in bytes, times in seconds.

    `models` maps the names that API clients write to `provider:model` (globs allowed; a name with
    a colon that is a key of none is refused). `default_model` serves a request without one.
    `stream_buffer` is how many events wait for a slow reader before it is cut off.
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
    drain_s: float = 20.0
    background: bool = True
