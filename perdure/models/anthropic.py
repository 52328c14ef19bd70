"""Anthropic's Messages API through the official SDK.

The SDK brings connections, proxies and authentication; its retries are off, and the stream is
read from its bytes, so that blocks and events newer than the SDK survive. It must not know the
engine or another provider.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from perdure.core.secrets import Secret
from perdure.ports.model import Delta, Model, ModelFailed, ModelOptions, ModelReply, ModelRequest
from perdure.wire import anthropic_messages, failures
from perdure.wire.stream import Source, drained, replies

if TYPE_CHECKING:
    import anthropic
    import httpx2

BASE_URL: Final = "https://api.anthropic.com"
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_DRAIN_S: Final = 0.1


class Anthropic:
    """A `Model` over one base URL. `key_variable` is named when a key is missing; empty: no need.

    Nothing is imported, opened or checked before the first call.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: Secret | None = None,
        provider: str = "anthropic",
        connect_s: float = 15.0,
        silence_s: float = 600.0,
        key_variable: str = "ANTHROPIC_API_KEY",
    ) -> None:
        self._base_url = failures.usable_url(provider, base_url or BASE_URL)
        self._key = api_key or Secret("")
        self._provider = provider
        self._connect_s = connect_s
        self._silence_s = silence_s
        self._key_variable = key_variable
        self._client: anthropic.AsyncAnthropic | None = None

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | ModelReply]:
        """Make one call. Raises `ModelFailed`."""
        built = anthropic_messages.request(request, self._provider)
        response = await self._send("/v1/messages", built.encoded(), request.model)
        try:
            chunks = response.aiter_bytes()
            source = self._source(response, request.model)
            reader = anthropic_messages.MessagesReader(request, self._provider, built.dropped)
            async with aclosing(replies(chunks, reader, source)) as found:
                async for item in found:
                    yield item
            await drained(chunks, source, asyncio.timeout(_DRAIN_S))
        finally:
            await response.aclose()

    async def check(self) -> str:
        """Ask for the list of models; return how many there are. Raises `ModelFailed`."""
        response = await self._send("/v1/models?limit=1000", None, "")
        try:
            count = len(response.json().get("data") or [])
        except (ValueError, AttributeError, TypeError):
            return f"{self._provider}: answers at {self._base_url}"
        return f"{self._provider}: answers at {self._base_url}, {count} models"

    async def close(self) -> None:
        """Close the connections. The next call would open new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _source(self, response: "httpx2.Response", model: str) -> Source:
        import anyio
        import httpx2

        broken = (httpx2.HTTPError, httpx2.StreamError, OSError, anyio.EndOfStream)
        return Source(self._provider, model, response.headers, broken, self._key.scrub)

    async def _send(self, path: str, body: bytes | None, model: str) -> "httpx2.Response":
        """Open the answer's stream, or read the whole answer where there is no body to send."""
        client = await self._connected()
        import anthropic
        import httpx2

        try:
            if body is None:
                return await client.get(path, cast_to=httpx2.Response)
            stream: type[anthropic.AsyncStream[Any]] = anthropic.AsyncStream
            headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
            opened = await client.post(
                path,
                cast_to=httpx2.Response,
                content=body,
                options={"headers": headers},
                stream=True,
                stream_cls=stream,
            )
            # Asked for the plain response, the SDK gives it, open; its types say otherwise.
            return cast("httpx2.Response", opened)
        # `from None`: the SDK's errors print the vendor's body, which may echo the key.
        except anthropic.APIStatusError as error:
            raise self._refused(error.response, model) from None
        except (anthropic.APIConnectionError, httpx2.HTTPError, OSError) as error:
            raise self._unreachable(error, model) from None

    def _refused(self, response: "httpx2.Response", model: str) -> ModelFailed:
        return failures.from_status(
            self._provider,
            response.status_code,
            response.headers,
            response.content,
            model=model,
            mask=self._key.scrub,
        )

    def _unreachable(self, error: Exception, model: str) -> ModelFailed:
        said = f"{self._base_url}: {error.__cause__ or error}"
        return failures.failed(
            failures.UNREACHABLE, self._provider, said, model=model, mask=self._key.scrub
        )

    async def _connected(self) -> "anthropic.AsyncAnthropic":
        key = failures.usable_key(self._provider, self._key, self._key_variable)
        if self._client is None:
            # Importing the SDK takes long enough to be felt by every other session.
            await asyncio.to_thread(import_module, "anthropic")
        if self._client is None:  # another call may have been faster
            self._client = self._made(key)
        return self._client

    def _made(self, key: str) -> "anthropic.AsyncAnthropic":
        import anthropic
        import httpx2

        timeout = httpx2.Timeout(self._silence_s, connect=self._connect_s)
        # A server on this machine is never behind the proxy that the environment names.
        local = (urlsplit(self._base_url).hostname or "") in _LOOPBACK
        return anthropic.AsyncAnthropic(
            api_key=key,
            base_url=self._base_url,
            max_retries=0,
            timeout=timeout,
            http_client=anthropic.DefaultAsyncHttpxClient(
                # A redirect would take the key to an address nobody chose.
                follow_redirects=False,
                trust_env=not local,
                timeout=timeout,
            ),
        )


def connect(provider: str, _name: str, environ: Mapping[str, str], options: ModelOptions) -> Model:
    """Connect to Anthropic, or to a server that speaks its dialect. See docs/models.md."""
    return Anthropic(
        base_url=options.base_url or environ.get("ANTHROPIC_BASE_URL", ""),
        api_key=options.api_key or Secret(environ.get("ANTHROPIC_API_KEY", "")),
        provider=provider,
        connect_s=options.connect_s,
        silence_s=options.silence_s,
    )
