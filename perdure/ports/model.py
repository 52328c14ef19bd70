"""A model: reads a context, writes a reply, may be cut off half-way."""

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from perdure.core.agent import ToolSpec
from perdure.core.content import ContextItem, ReplyItem, Usage
from perdure.core.errors import ErrorInfo, PerdureError
from perdure.core.secrets import Secret
from perdure.core.settings import ModelSettings


class ModelRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call. `model` is the provider's name for it; `max_output_tokens` binds the reply.

    `call_prefix` and `first_call` give the ids of tool calls: `t3.` and 5 make the next t3.5.
    `attempt` counts from 1 how often this very call was tried; it is not sent to a provider.
    Of `settings` a dialect leaves out what it has no word for; perdure/wire/steering.py says what.
    """

    model: str
    instructions: str
    items: tuple[ContextItem, ...]
    tools: tuple[ToolSpec, ...] = ()
    max_output_tokens: int = 8192
    call_prefix: str = "t1."
    first_call: int = 1
    attempt: int = 1
    settings: ModelSettings = ModelSettings()


class TextDelta(msgspec.Struct, frozen=True, tag="text.delta"):
    text: str


class ReasoningDelta(msgspec.Struct, frozen=True, tag="reasoning.delta"):
    text: str


class CallDelta(msgspec.Struct, frozen=True, tag="call.delta"):
    """A tool call is being written: its name, and the next piece of its arguments."""

    tool: str
    arguments: str


Delta = TextDelta | ReasoningDelta | CallDelta


class ModelReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """A finished reply. `finish` is stop, tool_calls, length, refusal or other.

    `items` hold calls with our ids, in the order written; `raw` the provider's items unchanged.
    A refusal that was written as a reply has finish `refusal`; one that came instead of a reply
    is a `ModelFailed`. `dropped` says, in words, what of the history could not be sent as it was
    (another provider's reasoning, say): never silently.
    """

    items: tuple[ReplyItem, ...]
    usage: Usage
    finish: str
    raw: tuple[msgspec.Raw, ...] = ()
    dialect: str = ""
    provider: str = ""
    model: str = ""
    request_id: str = ""
    dropped: tuple[str, ...] = ()


class ModelOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one provider is reached. Empty fields mean the provider's own default.

    `api_key` cannot be encoded, so neither can these options once a key is in them.
    `silence_s` is the longest a stream may say nothing; reasoning models are quiet for minutes.
    """

    base_url: str = ""
    api_key: Secret | None = None
    connect_s: float = 15.0
    silence_s: float = 600.0


class ModelFailed(PerdureError):
    """The call failed. `info.retryable` says whether the same call may succeed later.

    `partial` is the text that had arrived when the stream broke: evidence, never spliced.
    """

    def __init__(self, info: ErrorInfo, partial: str = "", usage: Usage | None = None) -> None:
        super().__init__(info.code, info.message, info.hint, retryable=info.retryable)
        self.info = info
        self.partial = partial
        self.usage = usage


class Model(Protocol):
    """One provider's connection. Shared by sessions; keeps no state of a call; never retries."""

    def stream(self, request: ModelRequest) -> AsyncIterator[Delta | ModelReply]:
        """Yield deltas as they come and, last, exactly one `ModelReply`.

        Raises `ModelFailed`. Closing the iterator early closes the connection.
        """
        ...

    async def check(self) -> str:
        """Ask the provider whether it can be reached with this key; return a line for people.

        Raises `ModelFailed`.
        """
        ...

    async def close(self) -> None: ...


class Models(Protocol):
    """Finds the model that a name such as `anthropic:claude-opus-5-5` stands for."""

    def get(self, name: str) -> tuple[Model, str]:
        """Return the provider's connection and its own name for the model.

        Raises `InvalidRequest` (E-MODEL-NAME) for a name nobody knows.
        """
        ...
