"""Following what another node works on: one stream for each session that somebody follows here,
shared by all who do, into the hub of the session's engine.

Nothing depends on it: events come from the journal, and what breaks is only looked for anew.
Nothing is asked about sessions that nobody follows, or that do not move.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from perdure.core.codec import decode
from perdure.core.errors import PerdureError, Unavailable
from perdure.engine.hub import Hub
from perdure.ports.cluster import Cluster, NodeRow
from perdure.serving.live import KEEPALIVE_S, OVER, Told, path_of
from perdure.serving.secret import ClusterSecret

if TYPE_CHECKING:
    import httpx2

_CONNECT_S: Final = 3.0
_SILENCE_S: Final = 3 * KEEPALIVE_S + 1  # a node that says nothing for so long is not there
_LOOK_S: Final = 0.2  # how often it is asked, at most, who works on a session
_CHECK_S: Final = 1.0  # how often, while its pieces come
_PAUSE_S: Final = 0.2
_PAUSE_MAX_S: Final = 5.0
_LINE_MAX: Final = 4 * 1024 * 1024
_UNKNOWN: Final = 401


class Driving(Protocol):
    """An engine, as far as it matters here."""

    @property
    def hub(self) -> Hub: ...

    def drives(self, session_id: str) -> bool:
        """Whether this process is at work on the session."""
        ...


class Upstreams:
    """The streams that this node takes from others. `name_of` gives the name that a project's
    session has in the store beneath.
    """

    def __init__(
        self, cluster: Cluster, secret: ClusterSecret, name_of: Callable[[str, str], str]
    ) -> None:
        self._cluster = cluster
        self._secret = secret
        self._name_of = name_of
        self._running: dict[tuple[str, str], tuple[asyncio.Task[None], asyncio.Event]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._client: httpx2.AsyncClient | None = None
        self._closed = False

    @property
    def open(self) -> int:
        """How many sessions are followed here."""
        return len(self._running)

    def attach(self, project: str, engine: Driving) -> None:
        """See to it that who follows a session of that engine sees what happens elsewhere."""

        def listened(session: str, there: bool) -> None:
            key = (project, session)
            if there and key not in self._running and not self._closed:
                moved = asyncio.Event()
                upstream = _Upstream(self, engine, project, session, moved)
                task = asyncio.create_task(upstream.run(), name=f"upstream {session}")
                self._running[key] = (task, moved)
            elif not there and key in self._running:
                task, _ = self._running.pop(key)
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)
                task.cancel()

        def moved(session: str) -> None:
            if (running := self._running.get((project, session))) is not None:
                running[1].set()

        engine.hub.listened = listened
        engine.hub.moved = moved

    async def close(self) -> None:
        """Let all of them go, for good."""
        self._closed = True
        tasks = [*(task for task, _ in self._running.values()), *self._ending]
        self._running.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def owner(self, project: str, session: str) -> NodeRow | None:
        """Return the other node that works on a session and can be reached."""
        found = await self._cluster.owner(self._name_of(project, session))
        if found is None or found.name == self._cluster.node or not found.address:
            return None
        return found

    async def frames(self, node: NodeRow, project: str, session: str) -> AsyncGenerator[Told, None]:
        """Yield what that node says of the session, until it is done with it. Raises `Unavailable`
        where it cannot be heard.
        """
        import httpx2

        path = path_of(project, session)
        headers = {"authorization": f"Bearer {await self._secret.token(path)}"}
        url = node.address.rstrip("/") + path
        try:
            async with self._opened().stream("GET", url, headers=headers) as answer:
                if answer.status_code != httpx2.codes.OK:
                    await self._refused(answer.status_code)
                async with aclosing(_read(answer.aiter_bytes())) as pieces:
                    async for told in pieces:
                        yield told
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise _unheard(node, type(error).__name__) from None

    async def _refused(self, status: int) -> None:
        if status == _UNKNOWN:
            await self._secret.forget()
        raise Unavailable("E-NODE-UNHEARD", f"It answered {status}.")

    def _opened(self) -> "httpx2.AsyncClient":
        import httpx2

        if self._client is None:
            # No proxy of the environment: nodes are reached where they say that they are.
            self._client = httpx2.AsyncClient(
                timeout=httpx2.Timeout(_SILENCE_S, connect=_CONNECT_S),
                limits=httpx2.Limits(max_connections=None),
                trust_env=False,
            )
        return self._client


class _Upstream:
    """One session that somebody follows here."""

    def __init__(
        self, all_of_them: Upstreams, engine: Driving, project: str, session: str,
        moved: asyncio.Event,
    ) -> None:  # fmt: skip
        self._all = all_of_them
        self._engine = engine
        self._project = project
        self._session = session
        self._moved = moved

    async def run(self) -> None:
        """Listen to whoever works on it, for as long as it is let."""
        pause_s = _PAUSE_S
        while True:
            self._moved.clear()
            node = await self._elsewhere()
            if node is None:
                await asyncio.sleep(_LOOK_S)
                await self._moved.wait()
                continue
            if await self._listen(node):
                pause_s = _PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(_PAUSE_MAX_S, pause_s * 2)

    async def _elsewhere(self) -> NodeRow | None:
        """Return the node to listen to; None while it is this one, nobody, or unknown."""
        if self._engine.drives(self._session):
            return None
        with contextlib.suppress(PerdureError):
            return await self._all.owner(self._project, self._session)
        return None

    async def _listen(self, node: NodeRow) -> bool:
        """Publish what the node says until it is over, breaks, or another node has the session;
        return whether it said anything.
        """
        heard = False

        async def hear() -> None:
            nonlocal heard
            async with aclosing(self._all.frames(node, self._project, self._session)) as pieces:
                async for told in pieces:
                    heard = True
                    if self._engine.drives(self._session):
                        return
                    self._engine.hub.live(self._session, told.piece, told.after)

        hearing = asyncio.create_task(hear())
        checking = asyncio.create_task(self._until_moved_from(node))
        try:
            await asyncio.wait({hearing, checking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (hearing, checking):
                task.cancel()
            await asyncio.gather(hearing, checking, return_exceptions=True)
        return heard

    async def _until_moved_from(self, node: NodeRow) -> None:
        """Return when the session moves in other hands than that node's: it may be frozen, with its
        stream open.
        """
        while True:
            await self._moved.wait()
            self._moved.clear()
            if self._engine.drives(self._session):
                return
            with contextlib.suppress(PerdureError):
                owner = await self._all.owner(self._project, self._session)
                if owner is None or owner.name != node.name:
                    return
            await asyncio.sleep(_CHECK_S)


async def _read(octets: AsyncIterator[bytes]) -> AsyncGenerator[Told, None]:
    """Yield the pieces of a stream of events. Raises `Unavailable` for what is none."""
    rest = b""
    async for some in octets:
        *whole, rest = (rest + some).split(b"\n\n")
        if len(rest) > _LINE_MAX:
            raise Unavailable("E-NODE-UNHEARD", "Its answer has no end.")
        for each in whole:
            lines = dict(line.split(b": ", 1) for line in each.split(b"\n") if b": " in line)
            if lines.get(b"event") == OVER.encode():
                return
            if b"data" in lines:
                try:
                    yield decode(lines[b"data"], Told)
                except msgspec.MsgspecError:
                    raise Unavailable("E-NODE-UNHEARD", "Another version answers.") from None


def _unheard(node: NodeRow, why: str) -> Unavailable:
    return Unavailable("E-NODE-UNHEARD", f"{node.name} cannot be heard: {why}.")
