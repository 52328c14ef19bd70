"""Tools of servers that we show a token: what they give back does not repeat it.

A server may answer with what it was sent. What it answers goes into journals and to models, where
no secret may be.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from perdure.core.secrets import MASK, Secret
from perdure.ports.tool import OutcomeUnknown, Tool, ToolContext, ToolFailed, ToolOutput

_KEPT: Final = 32


class Shown:
    """The tokens that one server was shown by this process; the last few."""

    def __init__(self) -> None:
        self._tokens: dict[str, None] = {}

    def add(self, token: Secret) -> None:
        """Take note of a token."""
        self._tokens[token.reveal()] = None
        while len(self._tokens) > _KEPT:
            del self._tokens[next(iter(self._tokens))]

    def scrub(self, text: str) -> str:
        """Return a text without these tokens."""
        for token in self._tokens:
            text = text.replace(token, MASK)
        return text

    def is_in(self, data: bytes) -> bool:
        """Whether one of the tokens is in there."""
        return any(token.encode() in data for token in self._tokens)


class Discreet:
    """A tool whose results do not repeat what authorises us. Implements the `Tool` port."""

    def __init__(self, tool: Tool, shown: Shown) -> None:
        self._tool = tool
        self._shown = shown

    @property
    def spec(self) -> Any:
        """See `Tool.spec`."""
        return self._tool.spec

    @property
    def served_as(self) -> str:
        """The server's own name for it."""
        return str(getattr(self._tool, "served_as", self.spec.name))

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """See `Tool.call`."""
        scrub = self._shown.scrub
        try:
            output = await self._tool.call(arguments, _Quiet(context, self._shown))
        except ToolFailed as error:
            raise ToolFailed(replace(error.info, message=scrub(error.info.message))) from None
        except OutcomeUnknown as error:
            raise OutcomeUnknown(scrub(error.message)) from None
        return self._clean(output)

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """See `Tool.probe`."""
        return await self._tool.probe(arguments, context)

    def _clean(self, output: ToolOutput) -> ToolOutput:
        data = msgspec.json.encode(output)
        full = output.full or b""
        if not self._shown.is_in(data) and not self._shown.is_in(full):
            return output
        text = self._shown.scrub(data.decode())
        cleaned = msgspec.json.decode(text, type=ToolOutput)
        kept = self._shown.scrub(full.decode("utf-8", "surrogateescape"))
        encoded = kept.encode("utf-8", "surrogateescape")
        return replace(cleaned, full=None if output.full is None else encoded)


class _Quiet:
    """A call's context whose progress does not repeat it, either."""

    def __init__(self, context: ToolContext, shown: Shown) -> None:
        self._context = context
        self._shown = shown

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def progress(self, text: str) -> None:
        self._context.progress(self._shown.scrub(text))
