"""What a project says about itself: `perdure.toml`, and `PERDURE_…` in the environment.

A misspelt key is an error with its line and a suggestion, never ignored: a limit that nobody reads
protects nobody. Every field is described in docs/configuration.md.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import EnumType
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from perdure.core.agent import Compaction, Limits, OnError, RetryPolicy, Rule
from perdure.core.budget import Price
from perdure.core.errors import InvalidRequest
from perdure.core.secrets import Secret
from perdure.doors.settings import ServerSettings
from perdure.engine.breaker import BreakerRules
from perdure.engine.kit import Bounds
from perdure.engine.retention import RetentionSettings
from perdure.ports.model import ModelOptions
from perdure.stores.postgres.address import is_postgres, parse

FILE_NAME: Final = "perdure.toml"
T = TypeVar("T")

_YES: Final = ("1", "true", "yes", "on")
_NO: Final = ("", "0", "false", "no", "off")


class McpConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """One MCP server of an agent: a program to start, or an address.

    In `env` and `headers` a value `$NAME` is taken from the environment.
    """

    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    url: str = ""
    headers: dict[str, str] = {}
    effects: dict[str, str] = {}
    allow: tuple[str, ...] | None = None
    timeout_s: float = 300.0
    retry: RetryPolicy | None = None
    on_error: OnError = "model"


class EnvironmentConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The limits of an agent's sandbox, and what it may see. Bytes and seconds."""

    memory_bytes: int = 2 * 1024**3
    processes: int = 256
    timeout_s: float = 120.0
    output_bytes: int = 64 * 1024
    file_bytes: int = 1024**3
    read_only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class AgentConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """An agent: where its Python object is, or the whole of it."""

    python: str = ""
    name: str = ""
    model: str = ""
    instructions: str = ""
    tools: tuple[str, ...] = ()
    workspace: bool = False
    permissions: tuple[Rule, ...] = ()
    limits: Limits | None = None
    retry: RetryPolicy | None = None
    tool_retry: RetryPolicy | None = None
    fallbacks: tuple[str, ...] = ()
    mcp: dict[str, McpConfig] = {}
    environment: EnvironmentConfig | None = None
    max_output_tokens: int = 8192
    approval_expires_s: float = 7 * 24 * 3600.0
    compaction: Compaction | None = None


class ModelConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """How a provider is reached. `api_key_env` names the variable that holds the key."""

    base_url: str = ""
    api_key_env: str = ""
    connect_s: float = 15.0
    silence_s: float = 600.0


class BreakerConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """When a provider that fails is left alone, and for how long. Times in seconds."""

    failures: int = 5
    window_s: float = 60.0
    cool_s: float = 30.0
    cool_cap_s: float = 300.0


class PriceConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars for a million tokens."""

    input: float
    output: float
    cached: float | None = None


class RemoteConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """A server whose sessions are used instead of a store here. `api_key_env` names the variable
    that holds the key, `ca_file` certificates to trust instead of the system's.
    """

    url: str = ""
    api_key_env: str = "PERDURE_API_KEY"
    ca_file: str = ""


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All that `perdure.toml` may say. `store`, `blobs`, `budget_usd` and `allow_unsandboxed` can
    also be set as PERDURE_STORE, PERDURE_BLOBS, PERDURE_BUDGET_USD and PERDURE_ALLOW_UNSANDBOXED,
    which win.
    """

    store: str = "sqlite:///.perdure/perdure.db"
    blobs: str = ""
    budget_usd: float = 1.0
    allow_unsandboxed: bool = False
    agents: dict[str, AgentConfig] = {}
    models: dict[str, ModelConfig] = {}
    prices: dict[str, PriceConfig] = {}
    server: ServerSettings = ServerSettings()
    remote: RemoteConfig = RemoteConfig()
    breaker: BreakerConfig = BreakerConfig()
    retention: RetentionSettings = RetentionSettings()


@dataclass(frozen=True)
class Project:
    """Settings, and the directory they belong to: that of `perdure.toml`, else the current one."""

    root: Path
    file: Path | None
    settings: Settings
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def remote(self) -> str:
        """The address of the server that is used instead of a store here, or ""."""
        return self.settings.remote.url

    @property
    def api_key(self) -> Secret | None:
        """What opens that server."""
        key = self.environ.get(self.settings.remote.api_key_env, "")
        return Secret(key) if self.remote and key else None

    @property
    def store_url(self) -> str:
        """The store, a relative path being relative to the project; or the server's address."""
        if self.remote:
            return self.remote
        path = self.store_path
        return self.settings.store if path is None else f"sqlite:///{path}"

    @property
    def store_shown(self) -> str:
        """The store as people may see it: without a password."""
        url = self.store_url
        return parse(url).shown if is_postgres(url) else url

    @property
    def store_path(self) -> Path | None:
        """The store's file, where it has one."""
        url = self.settings.store
        if self.remote or not url.startswith("sqlite:///"):
            return None
        return (self.root / Path(url.removeprefix("sqlite:///")).expanduser()).resolve()

    @property
    def prices(self) -> dict[str, Price]:
        """What models cost, as far as the project says so."""
        found = self.settings.prices.items()
        free = {"scripted:*": Price(0.0, 0.0)}  # a script is no provider: it costs nothing
        return free | {name: Price(p.input, p.output, p.cached) for name, p in found}

    @property
    def bounds(self) -> Bounds:
        """The engine's own limits, as far as the project says so."""
        return Bounds(breaker=BreakerRules(**msgspec.structs.asdict(self.settings.breaker)))

    @property
    def model_options(self) -> dict[str, ModelOptions]:
        """How providers are reached."""
        return {name: self._options(m) for name, m in self.settings.models.items()}

    def _options(self, model: ModelConfig) -> ModelOptions:
        key = self.environ.get(model.api_key_env, "") if model.api_key_env else ""
        return ModelOptions(
            model.base_url, Secret(key) if key else None, model.connect_s, model.silence_s
        )


def load_project(start: Path, environ: Mapping[str, str] | None = None) -> Project:
    """Return the project that `start` lies in. PERDURE_CONFIG names another file.

    Raises `InvalidRequest` (E-CONFIG) naming the file, the line and the nearest known key.
    """
    known = os.environ if environ is None else environ
    named = known.get("PERDURE_CONFIG", "")
    file = Path(named).expanduser().resolve() if named else find_file(start)
    if file is None:
        return Project(start.resolve(), None, _overlaid(Settings(), known), known)
    settings = read_toml(file, Settings, "E-CONFIG")
    return Project(file.parent, file, _overlaid(settings, known), known)


def find_file(start: Path) -> Path | None:
    """Return the nearest `perdure.toml` at or above `start`."""
    here = start.resolve()
    places = (folder / FILE_NAME for folder in (here, *here.parents))
    return next((place for place in places if place.is_file()), None)


def _overlaid(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Let the environment win over the file."""
    changes: dict[str, Any] = {}
    if store := environ.get("PERDURE_STORE", ""):
        changes["store"] = store
    if (blobs := environ.get("PERDURE_BLOBS")) is not None:  # empty: beside or in the store
        changes["blobs"] = blobs
    if (remote := environ.get("PERDURE_URL")) is not None:  # empty: work on this machine
        if remote and "://" not in remote:
            raise InvalidRequest(
                "E-REMOTE-URL",
                f"PERDURE_URL={remote} does not say how to speak to the server.",
                f"https://{remote}, or http://… for one on this machine",
            )
        changes["remote"] = msgspec.structs.replace(settings.remote, url=remote)
    if budget := environ.get("PERDURE_BUDGET_USD", ""):
        changes["budget_usd"] = _number("PERDURE_BUDGET_USD", budget)
    unsandboxed = environ.get("PERDURE_ALLOW_UNSANDBOXED")
    if unsandboxed is not None:
        changes["allow_unsandboxed"] = _switch("PERDURE_ALLOW_UNSANDBOXED", unsandboxed)
    return msgspec.structs.replace(settings, **changes)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidRequest("E-CONFIG", f"{name}={text!r} is not a number.") from error


def _switch(name: str, text: str) -> bool:
    if text.lower() in _YES:
        return True
    if text.lower() in _NO:
        return False
    raise InvalidRequest("E-CONFIG", f"{name}={text!r} is neither yes nor no.", f"{name}=1")


def read_toml(path: Path, type_: type[T], code: str) -> T:
    """Read a TOML file as a struct. Raises `InvalidRequest` with `code`, the line and a hint."""
    try:
        text = path.read_text(encoding="utf-8")
        plain = tomllib.loads(text)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidRequest(code, f"{path} cannot be read: {why}.") from error
    problem = next(_problems(plain, type_, ()), None)
    if problem is not None:
        keys, message, hint = problem
        raise InvalidRequest(code, f"{path.name}:{line_of(text, keys)}: {message}.", hint)
    return msgspec.convert(plain, type_)


Keys = tuple[str | int, ...]


def _problems(value: Any, wanted: Any, keys: Keys) -> Iterator[tuple[Keys, str, str]]:
    """Yield what does not fit: where, what, and what to do. Structs are looked into."""
    if type(None) in get_args(wanted):
        wanted = next(each for each in get_args(wanted) if each is not type(None))
    inner = get_args(wanted)
    if isinstance(wanted, type) and issubclass(wanted, Struct) and isinstance(value, dict):
        yield from _struct_problems(value, wanted, keys)
    elif get_origin(wanted) is dict and isinstance(value, dict):
        for key, each in value.items():
            yield from _problems(each, inner[1], (*keys, key))
    elif get_origin(wanted) is tuple and isinstance(value, list):
        for number, each in enumerate(value):
            yield from _problems(each, inner[0], (*keys, number))
    else:
        try:
            msgspec.convert(value, wanted)
        except msgspec.ValidationError as error:
            where = ".".join(map(str, keys))
            one_of = ", ".join(wanted) if isinstance(wanted, EnumType) else ""
            hint = f"One of: {one_of}." if one_of else ""
            yield keys, f"{where}: {str(error).rstrip('.')}", hint


def _struct_problems(
    value: dict[str, Any], wanted: type[Struct], keys: Keys
) -> Iterator[tuple[Keys, str, str]]:
    hints = get_type_hints(wanted)
    known = {f.encode_name: hints[f.name] for f in msgspec.structs.fields(wanted)}
    for key, each in value.items():
        if key in known:
            yield from _problems(each, known[key], (*keys, key))
            continue
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else "Known: " + ", ".join(known) + "."
        yield (*keys, key), f"there is no setting {key!r}" + _in(keys), hint
    for each in msgspec.structs.fields(wanted):
        if each.required and each.encode_name not in value:
            yield keys, f"{each.encode_name!r} is missing" + _in(keys), ""


def _in(keys: Keys) -> str:
    return f" in [{'.'.join(map(str, keys))}]" if keys else ""


def line_of(text: str, keys: Keys) -> int:
    """Return the line on which the value at `keys` is written; 1 where that cannot be told.

    tomllib tells no positions, so headers and keys are read again, one line at a time.
    """
    best, best_line = 0, 1
    table: Keys = ()
    seen: dict[Keys, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*(\[\[?)([^\]]+)\]\]?\s*(#.*)?$", line):
            table = _path(found[2] + "=0")
            if found[1] == "[[":
                seen[table] = seen.get(table, -1) + 1
                table = (*table, seen[table])
            here = table
        elif "=" in line:
            here = (*table, *_path(line.partition("=")[0] + "=0"))
        else:
            continue
        if here == keys[: len(here)] and len(here) > best:
            best, best_line = len(here), number
    return best_line


def _path(assignment: str) -> Keys:
    """Return the keys of `a."b.c" = 0`."""
    try:
        value: Any = tomllib.loads(assignment)
    except tomllib.TOMLDecodeError:
        return ("\0",)
    keys: list[str | int] = []
    while isinstance(value, dict):
        ((key, value),) = value.items()
        keys.append(key)
    return tuple(keys)
