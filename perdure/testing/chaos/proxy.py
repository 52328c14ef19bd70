"""A proxy between a node and its PostgreSQL that fails, when told, as networks and servers do.

    proxy = await FaultProxy(listen, target).start()
    proxy.cut()                             all connections are closed, now
    proxy.rule(Rule("drop_answer"))         the next COMMIT lands, and nobody hears of it
    proxy.rule(Rule("drop_request"))        the next COMMIT does not reach the server
    proxy.silence()                         half-open: nothing is closed, nothing comes through
    proxy.refuse()                          no new connection
    proxy.recover()                         all of that is over
    proxy.target = "/run/other/.s.PGSQL.5432"   where new connections go: a standby, say

An address is a path (a unix socket) or `host:port`. It reads the protocol unencrypted: where a
client asks for TLS it says that there is none.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from perdure.testing.chaos.frames import READY, Frame, Frames

COMMIT: Final = re.compile(r"^\s*(COMMIT|END)\b", re.IGNORECASE)
_CHUNK: Final = 65536


class Link:
    """One connection through the proxy. `options` are what the client said of itself when it
    connected (user, database, application_name).
    """

    def __init__(self, number: int, down: asyncio.StreamWriter, up: asyncio.StreamWriter) -> None:
        self.number = number
        self.options: dict[str, str] = {}
        self.silent = False
        self.latency_s = 0.0
        self.cut_short = False
        self._down, self._up = down, up
        self._requests = 0  # how many times the server will have to say READY
        self._answers = 0
        self._last_answer: int | None = None  # the one that is not passed on: we cut there

    def cut(self) -> None:
        """Close both sides at once; what was on its way is lost."""
        self.cut_short = True
        for writer in (self._down, self._up):
            writer.transport.abort()

    def count(self, frame: Frame) -> None:
        """Take note of what the client asked."""
        self._requests += frame.ends_a_request

    def drop_answer(self) -> None:
        """Let what is asked now reach the server, and cut where its answer would come."""
        self._last_answer = self._requests + 1

    def answered(self, frame: Frame) -> bytes:
        """Return what of an answer is passed on; cut when the answer to be dropped is whole."""
        dropped = self._last_answer is not None and self._answers + 1 >= self._last_answer
        self._answers += frame.kind == READY
        if dropped and self._answers == self._last_answer:
            self.cut()
        return b"" if dropped else frame.raw


Which = Callable[[Link], bool]


def any_link(_link: Link) -> bool:
    """Every connection."""
    return True


@dataclass
class Rule:
    """What befalls a statement that is met on its way to the server.

    `drop_request`: the connection is cut before the server sees it. `drop_answer`: the server does
    it, and the connection is cut instead of the answer. `statement` says which (COMMIT), `only`
    of which connections, `skip` how many of them pass first, `times` how many are struck.
    """

    kind: Literal["drop_request", "drop_answer"]
    statement: re.Pattern[str] = COMMIT
    only: Which = any_link
    skip: int = 0
    times: int = 1
    struck: int = field(default=0, init=False)

    def meets(self, link: Link, frame: Frame) -> bool:
        """Whether this statement is struck; counts it."""
        if self.struck >= self.times or not frame.statement or not self.only(link):
            return False
        if not self.statement.search(frame.statement):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.struck += 1
        return True


class FaultProxy:
    """Listens at `listen`, connects to `target`. Close it with `stop`."""

    def __init__(self, listen: str, target: str) -> None:
        self.listen = listen
        self.target = target
        self.links: list[Link] = []
        self.accepted = 0
        self._rules: list[Rule] = []
        self._latency_s = 0.0
        self._silent = False
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> Self:
        """Listen. A port 0 becomes the one that was free."""
        if self.listen.startswith("/"):
            self._server = await asyncio.start_unix_server(self._serve, self.listen)
            return self
        host, _, port = self.listen.rpartition(":")
        self._server = await asyncio.start_server(self._serve, host, int(port))
        self.listen = f"{host}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def stop(self) -> None:
        """Listen no more and cut what is open."""
        self.refuse()
        self.cut()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def rule(self, rule: Rule) -> Rule:
        """Put a rule in force."""
        self._rules.append(rule)
        return rule

    def cut(self, only: Which = any_link) -> int:
        """Close connections; return how many."""
        found = [link for link in self.links if only(link)]
        for link in found:
            link.cut()
        return len(found)

    def slow(self, latency_s: float, only: Which | None = None) -> None:
        """Let every piece take that much longer, each way. Without `only`, new connections too."""
        if only is None:
            self._latency_s = latency_s
        for link in self.links:
            if only is None or only(link):
                link.latency_s = latency_s

    def silence(self, only: Which | None = None) -> None:
        """Swallow what either side sends from now on, closing nothing. Without `only`, a new
        connection is taken and hears nothing, too.
        """
        self._silent = self._silent or only is None
        for link in self.links:
            link.silent = link.silent or only is None or only(link)

    def refuse(self) -> None:
        """Take no new connections."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def recover(self) -> None:
        """End all that goes wrong. A connection that swallowed something cannot go on: cut it."""
        self._rules.clear()
        self._silent = False
        self.slow(0.0)
        self.cut(lambda link: link.silent)
        if self._server is None:
            await self.start()

    async def outage(self, seconds: float, *, silent: bool = False) -> None:
        """Let the database be away: refused and cut, or, `silent`, there without a word."""
        if silent:
            self.silence()
        else:
            self.refuse()
            self.cut()
        await asyncio.sleep(seconds)
        await self.recover()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        try:
            upstream, up = await _connect(self.target)
        except OSError:
            writer.transport.abort()
            self._tasks.discard(task)
            return
        link = Link(self.accepted, writer, up)
        link.silent, link.latency_s = self._silent, self._latency_s
        self.links.append(link)
        try:
            pumps = [self._ask(link, reader, writer, up), self._answer(link, upstream, writer)]
            await _until_one_ends(*(asyncio.create_task(pump) for pump in pumps))
        finally:
            self.links.remove(link)
            link.cut()
            self._tasks.discard(task)

    async def _ask(
        self,
        link: Link,
        reader: asyncio.StreamReader,
        down: asyncio.StreamWriter,
        up: asyncio.StreamWriter,
    ) -> None:
        frames = Frames(starting=True)
        while data := await reader.read(_CHUNK):
            await _pace(link)
            if link.silent:
                continue
            for frame in frames.feed(data):
                if frame.wants_encryption:
                    down.write(b"N")
                    continue
                link.options = frames.options
                if not self._passes(link, frame) or link.cut_short:
                    return
                up.write(frame.raw)
            await up.drain()

    def _passes(self, link: Link, frame: Frame) -> bool:
        for rule in self._rules:
            if rule.meets(link, frame):
                if rule.kind == "drop_request":
                    link.cut()
                    return False
                link.drop_answer()
        link.count(frame)
        return True

    @staticmethod
    async def _answer(link: Link, reader: asyncio.StreamReader, down: asyncio.StreamWriter) -> None:
        frames = Frames(starting=False)
        while data := await reader.read(_CHUNK):
            await _pace(link)
            if link.silent:
                continue
            passed = [link.answered(frame) for frame in frames.feed(data)]
            if link.cut_short:
                return
            down.writelines(passed)
            await down.drain()


async def _pace(link: Link) -> None:
    if link.latency_s:
        await asyncio.sleep(link.latency_s)


async def _connect(target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if target.startswith("/"):
        return await asyncio.open_unix_connection(target)
    host, _, port = target.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def _until_one_ends(*tasks: asyncio.Task[None]) -> None:
    """Wait for the first; what a cut connection raises is no news."""
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await task
