"""OpenAI, and every server that speaks one of its two dialects, through the official SDK.

The SDK brings connections, proxies and authentication; its retries are off, and the stream is
read from its bytes, so that fields and events newer than the SDK survive. It must not know the
engine or another provider.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal, cast
from urllib.parse import urlsplit

from perdure.core.errors import InvalidRequest
from perdure.core.secrets import Secret
from perdure.ports.model import Delta, Model, ModelFailed, ModelOptions, ModelReply, ModelRequest
from perdure.wire import failures, openai_chat, openai_responses
from perdure.wire.stream import Reader, Source, drained, replies

if TYPE_CHECKING:
    import httpx2
    import openai

Api = Literal["responses", "chat"]

BASE_URL: Final = "https://api.openai.com/v1"
OLLAMA_URL: Final = "http://127.0.0.1:11434"
_PATHS: Final[Mapping[str, str]] = {"responses": "/responses", "chat": "/chat/completions"}
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_DRAIN_S: Final = 0.1


class OpenAI:
    """A `Model` over one base URL. `key_variable` is named when a key is missing; empty: no need.

    Nothing is imported, opened or checked before the first call.
    """

    def __init__(
        self,
        *,
        api: Api = "responses",
        base_url: str | None = None,
        api_key: Secret | None = None,
        provider: str = "openai",
        connect_s: float = 15.0,
        silence_s: float = 600.0,
        key_variable: str = "OPENAI_API_KEY",
    ) -> None:
        self._api = api
        self._base_url = failures.usable_url(provider, base_url or BASE_URL)
        self._key = api_key or Secret("")
        self._provider = provider
        self._connect_s = connect_s
        self._silence_s = silence_s
        self._key_variable = key_variable
        self._client: openai.AsyncOpenAI | None = None

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | ModelReply]:
        """Make one call. Raises `ModelFailed`."""
        wire = openai_responses if self._api == "responses" else openai_chat
        built = wire.request(request, self._provider)
        response = await self._send(_PATHS[self._api], built.encoded(), request.model)
        try:
            chunks = response.aiter_bytes()
            source = self._source(response, request.model)
            reader = self._reader(request, built.dropped)
            async with aclosing(replies(chunks, reader, source)) as found:
                async for item in found:
                    yield item
            await drained(chunks, source, asyncio.timeout(_DRAIN_S))
        finally:
            await response.aclose()

    async def check(self) -> str:
        """Ask for the list of models; return how many there are. Raises `ModelFailed`."""
        response = await self._send("/models", None, "")
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

    def _reader(self, request: ModelRequest, dropped: tuple[str, ...]) -> Reader:
        if self._api == "responses":
            return openai_responses.ResponsesReader(request, self._provider, dropped)
        return openai_chat.ChatReader(request, self._provider, dropped)

    def _source(self, response: "httpx2.Response", model: str) -> Source:
        import anyio
        import httpx2

        broken = (httpx2.HTTPError, httpx2.StreamError, OSError, anyio.EndOfStream)
        return Source(self._provider, model, response.headers, broken, self._key.scrub)

    async def _send(self, path: str, body: bytes | None, model: str) -> "httpx2.Response":
        """Open the answer's stream, or read the whole answer where there is no body to send."""
        client = await self._connected()
        import httpx2
        import openai

        try:
            if body is None:
                return await client.get(path, cast_to=httpx2.Response)
            stream: type[openai.AsyncStream[Any]] = openai.AsyncStream
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
        except openai.APIStatusError as error:
            raise self._refused(error.response, model) from None
        except (openai.APIConnectionError, httpx2.HTTPError, OSError) as error:
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

    async def _connected(self) -> "openai.AsyncOpenAI":
        key = failures.usable_key(self._provider, self._key, self._key_variable)
        if self._client is None:
            # Importing the SDK takes long enough to be felt by every other session.
            await asyncio.to_thread(import_module, "openai")
        if self._client is None:  # another call may have been faster
            self._client = self._made(key)
        return self._client

    def _made(self, key: str) -> "openai.AsyncOpenAI":
        import httpx2
        import openai

        timeout = httpx2.Timeout(self._silence_s, connect=self._connect_s)
        # A server on this machine is never behind the proxy that the environment names.
        local = (urlsplit(self._base_url).hostname or "") in _LOOPBACK
        client = openai.AsyncOpenAI(
            api_key=key,
            base_url=self._base_url,
            max_retries=0,
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(
                # A redirect would take the key to an address nobody chose.
                follow_redirects=False,
                trust_env=not local,
                timeout=timeout,
            ),
        )
        if self._provider != "openai":
            # The SDK reads these from the environment; they are nobody else's business.
            client.organization = client.project = None
        return client


def connect(provider: str, name: str, environ: Mapping[str, str], options: ModelOptions) -> Model:
    """Connect to OpenAI or to a server that speaks its dialect. See docs/models.md."""
    api: Api = "responses" if provider == "openai" else "chat"
    key_name, base_url = "OPENAI_API_KEY", environ.get("OPENAI_BASE_URL", "")
    key_variable = key_name
    if provider == "ollama":
        key_name, key_variable = "OLLAMA_API_KEY", ""
        base_url = ollama_url(environ.get("OLLAMA_HOST", ""))
    elif provider == "openai-compatible":
        key_name, key_variable = "PERDURE_MODEL_KEY", ""
        base_url = environ.get("PERDURE_BASE_URL", "")
        if not options.base_url and not base_url:
            message = f"openai-compatible:{name} needs the address of a server."
            raise InvalidRequest(
                "E-MODEL-URL", message, "export PERDURE_BASE_URL=http://127.0.0.1:8080/v1"
            )
    return OpenAI(
        api=api,
        base_url=options.base_url or base_url,
        api_key=options.api_key or Secret(environ.get(key_name, "")),
        # Both dialects of OpenAI are one provider; what differs between them is the dialect.
        provider="openai" if provider == "openai-chat" else provider,
        connect_s=options.connect_s,
        silence_s=options.silence_s,
        key_variable=key_variable,
    )


def ollama_url(host: str) -> str:
    """Return the base URL for OLLAMA_HOST in any form it is written in: a port, a host, a URL."""
    host = host.strip().rstrip("/")
    if not host:
        return f"{OLLAMA_URL}/v1"
    if "://" not in host:
        host = f"http://{host}" if not host.startswith(":") else f"http://127.0.0.1{host}"
    # 0.0.0.0 is what the server listens on; a client cannot call it.
    host = host.replace("//0.0.0.0", "//127.0.0.1")
    if urlsplit(host).port is None and host.startswith("http://"):
        host += ":11434"
    return host if host.endswith("/v1") else f"{host}/v1"
