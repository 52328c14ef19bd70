"""An agent as data: what is pinned in the journal when a session begins.

Everything that decides how a session behaves is in `AgentSpec`; its version is the digest of
its content, so two equal definitions have the same version wherever they were written.
"""

from enum import StrEnum
from functools import lru_cache
from typing import Literal

import msgspec

from perdure.core.codec import decode, digest
from perdure.core.settings import ModelSettings


class Effect(StrEnum):
    """What may be done with a call that was in flight when its process died."""

    READ = "read"
    IDEMPOTENT = "idempotent"
    CONTAINED = "contained"
    ONCE = "once"


class Verdict(StrEnum):
    """What a permission says of a call."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


class RetryPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """How what failed is tried again: at most `attempts` in all, after delays that double from
    `base_s` up to `cap_s`, with jitter.
    """

    attempts: int = 6
    base_s: float = 1.0
    cap_s: float = 60.0


OnError = Literal["model", "ask", "fail"]


class ToolSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool as the model and the journal know it.

    `input_schema` is JSON Schema. `ask` and `deny` are conditions on the arguments ("true" for
    always). `environment` is true when the tool works in the session's sandbox: such calls run
    one after the other. `mutates` is true when it may change the workspace. `parallel` calls of
    one reply run side by side though they are no reads.

    A `client` tool is not run here: the session waits until somebody answers the call, with what
    fits `answer_schema` (JSON Schema) where there is one. `retry` is how a call is tried again
    whose error can pass (None: as the agent says), `on_error` who hears of the error that remains:
    the model, a person, or nobody, and the turn fails.
    """

    name: str
    description: str
    input_schema: msgspec.Raw
    effect: Effect = Effect.ONCE
    ask: str = ""
    deny: str = ""
    environment: bool = False
    mutates: bool = False
    timeout_s: float = 300.0
    source: str = ""
    parallel: bool = False
    client: bool = False
    answer_schema: str = ""
    retry: RetryPolicy | None = None
    on_error: OnError = "model"

    @property
    def digest(self) -> str:
        """What an approval is bound to beside the arguments: name, schema, effect, origin."""
        schema = bytes(self.input_schema)
        return _tool_digest(self.name, self.description, schema, self.effect, self.source)

    @property
    def terms(self) -> list[object]:
        """All that a session is pinned to: what it is, what it asks, where and how long it runs."""
        where = [self.environment, self.mutates, self.timeout_s]
        terms: list[object] = [self.digest, self.ask, self.deny, *where]
        # What came later is left out where it is not used: versions written before stay valid.
        if self.client or self.answer_schema:
            terms.append(["client", self.client, self.answer_schema])
        if self.retry is not None or self.on_error != "model":
            retry = self.retry and [self.retry.attempts, self.retry.base_s, self.retry.cap_s]
            terms.append(["errors", retry, self.on_error])
        return terms


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """A permission: `tool` is a glob over tool names, `when` a condition on the arguments."""

    tool: str
    verdict: Verdict
    when: str = ""
    reason: str = ""


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a session may use. None means no limit of this kind.

    `steps` (model calls), `tool_calls` and `wall_s` (seconds) hold per turn; `tokens` and `usd`
    hold for the life of the session and can be raised.
    """

    steps: int | None = 100
    tool_calls: int | None = 500
    wall_s: float | None = 3600.0
    tokens: int | None = None
    usd: float | None = None


class Compaction(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is done when the transcript grows too long for the model.

    `on_overflow`: compact it when the provider says that it does not fit. `at_tokens`: compact
    before the next call once the provider counted so many. `keep_tokens`: about as much of the
    end stays word for word.
    """

    on_overflow: bool = True
    at_tokens: int | None = None
    keep_tokens: int = 20_000


class EnvironmentSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where tools touch files. `kind` is none, bubblewrap or process.

    `in_place` works on the user's own directory instead of a copy. Memory and output are in
    bytes, times in seconds. `network` lists where commands may connect to: a host, `*.` and a
    domain for all hosts below it, `*` for any public host, an address or network, each with
    `:port` for other ports than 80 and 443; `!` before a host that is excepted. Empty: nowhere.
    """

    kind: str = "none"
    in_place: bool = False
    memory_bytes: int = 2 * 1024**3
    processes: int = 256
    timeout_s: float = 120.0
    output_bytes: int = 64 * 1024
    file_bytes: int = 1024**3
    read_only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    network: tuple[str, ...] = ()


class AgentSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """An agent's definition, complete and immutable.

    `retry` is for model calls, `tool_retry` for tools that say nothing of their own (None: not
    again). `fallbacks` are models that take a turn over, in this order, when the one before
    cannot be had. `deltas` says whether the pieces of a reply are only shown
    while it is written or also stored, so that a stream can be read again after a crash.
    `settings` steer how the model writes.
    """

    name: str
    model: str
    instructions: str = ""
    tools: tuple[ToolSpec, ...] = ()
    permissions: tuple[Rule, ...] = ()
    limits: Limits = Limits()
    retry: RetryPolicy = RetryPolicy()
    environment: EnvironmentSpec = EnvironmentSpec()
    max_output_tokens: int = 8192
    approval_expires_s: float = 7 * 24 * 3600.0
    tool_retry: RetryPolicy | None = None
    fallbacks: tuple[str, ...] = ()
    compaction: Compaction = Compaction()
    deltas: Literal["live", "stored"] = "live"
    settings: ModelSettings = ModelSettings()

    @property
    def version(self) -> str:
        """The digest of the content: 12 hexadecimal digits."""
        return digest(msgspec.to_builtins(self, builtin_types=(msgspec.Raw,)) | _schemas(self))[:12]

    def tool(self, name: str) -> ToolSpec | None:
        """Return the tool of that name, or None."""
        return next((t for t in self.tools if t.name == name), None)


@lru_cache(maxsize=1024)
def _tool_digest(name: str, description: str, schema: bytes, effect: Effect, source: str) -> str:
    """Remembered, because it is compared before every call."""
    return digest([name, description, decode(schema, object), effect, source])


def _schemas(spec: AgentSpec) -> dict[str, object]:
    """Replace the tools by their digests, so that a schema's key order does not count."""
    return {"tools": [tool.terms for tool in spec.tools]}
