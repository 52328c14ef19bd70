"""The trees of sessions that this process works on: who may be driven, whose ledger counts, and
how a parent's commands reach its children.

All sessions of a tree are driven by the process that owns its root; that is what makes one
ledger in memory exact.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterator, Set as AbstractSet
from contextlib import aclosing, contextmanager
from typing import Final, Protocol

from perdure.core import events as e
from perdure.core.errors import Conflict, NotFound, PerdureError, Unavailable
from perdure.core.events import Event, InputKind
from perdure.core.inbox import Close, Post, Say
from perdure.core.state import State
from perdure.engine.journal import follow, load
from perdure.engine.kin import child_name, has_subagents, open_errands, tree_of
from perdure.engine.ledger import Ledger
from perdure.engine.session import Host, Session

_BUSY_MAX: Final = 10  # polls that a child may be held by another process, an onlooker perhaps


class Owner(Host, Protocol):
    """What a tree needs of the engine."""

    def owns(self, session_id: str) -> Awaitable[bool]:
        """Wait until it is known whether this process works on the session, and say so."""
        ...

    async def create(self, created: e.SessionCreated) -> None:
        """Write the first event of a session, unless it has one."""
        ...


class Trees:
    """One engine's trees."""

    ledger_type: type[Ledger] = Ledger

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.awaited: Counter[str] = Counter()
        self._running: dict[str, set[str]] = {}
        self._roots: dict[str, str] = {}
        self._ledgers: dict[str, Ledger] = {}
        self._busy: Counter[str] = Counter()
        self.closing = asyncio.Event()  # this process ends: nothing more is waited for
        self.restless = False  # whether `strayed` is to be asked again though nothing was written

    async def at_home(self, session: str) -> bool:
        """Whether this process may work on the session: it, or the root of its tree, is ours."""
        root = session
        while (row := await self.owner.kit.store.session(root)) is not None and row.parent:
            root = row.parent
        self._roots[session] = root
        if root == session:
            return True
        self.owner.wake(root)
        return await self.owner.owns(root)

    async def enter(self, state: State) -> Ledger:
        """Begin to work on a session; return the ledger of its tree."""
        root = self._roots.get(state.id, state.id)
        self._busy.pop(state.id, None)
        ledger = self._ledgers.get(root)
        if ledger is None:
            ledger = self._ledgers[root] = await self._rebuilt(state)
            self.restless = True
        ledger.enter(state)
        return ledger

    def leave(self, session: str) -> None:
        """End working on a session."""
        root = self._roots.pop(session, session)
        if root == session:
            self._ledgers.pop(session, None)
        elif root in self._ledgers:
            self._ledgers[root].leave(session)

    async def strayed(self) -> list[str]:
        """Return the sessions below ours that have work which nobody does: another process took
        letters for them, or died over them. What they ask for is ours to do.
        """
        self.restless, found = False, list[str]()
        for ledger in list(self._ledgers.values()):
            for session, seq in ledger.asleep():
                row = await self.owner.kit.store.session(session)
                if row is not None and row.seq > seq:
                    found.append(session)
        self.restless = self.restless or bool(found)  # another process may still hold them
        return found

    def below(self, root: str) -> list[str]:
        """Return the sessions below `root` that this process works on."""
        return [s for s, top in self._roots.items() if top == root and s != root]

    async def _rebuilt(self, root: State) -> Ledger:
        """Read what the whole tree has used so far, open reservations of the dead included."""
        store = self.owner.kit.store
        ledger = self.ledger_type()
        ledger.note(root)
        if has_subagents(root.spec):
            for row in tree_of(await store.sessions(), root.id)[1:]:
                state, _, _ = await load(store, row.id)
                ledger.note(state)
        return ledger

    @contextmanager
    def running(
        self,
        parent: str,
        child: str,
        *,
        fresh: bool,
        most: int,
        others: AbstractSet[str] = frozenset(),
    ) -> Iterator[None]:
        """Count a child while its parent waits for it. Raises `Conflict` (E-SUBAGENT-WIDTH) when
        a fresh one would be one too many beside those here and the `others`; one that exists
        already is always taken up again.
        """
        there = self._running.setdefault(parent, set())
        count = len(there | others)
        if fresh and count >= most:
            raise Conflict(
                "E-SUBAGENT-WIDTH",
                f"{count} subagents of this session are at work, and no more than {most} "
                "may be at once. This one was not started; wait for results first.",
            )
        there.add(child)
        self.awaited[child] += 1
        try:
            yield
        finally:
            there.discard(child)
            if not there:
                self._running.pop(parent, None)
            self._forget(child)

    async def children_of(self, state: State) -> set[str]:
        """Return the subagents that exist of those that a session waits for."""
        names = [child_name(state.id, call.call.id) for call in open_errands(state)]
        return {n for n in names if await self.owner.kit.store.session(n) is not None}

    def _forget(self, child: str) -> None:
        self.awaited[child] -= 1
        if not self.awaited[child]:
            del self.awaited[child]

    def held_elsewhere(self, session: str) -> bool:
        """Take note that another process holds a session; whether to try for it again."""
        if not self.awaited[session]:
            return False
        self._busy[session] += 1
        if self._busy[session] <= _BUSY_MAX:
            return True
        del self._busy[session]
        self.owner.hub.fail(session, elsewhere(session))
        return False

    async def relay(self, state: State, post: Post, key: str) -> None:
        """Pass a pause, and what ends one, on to the subagents that `state` waits for; what closes
        it closes all that it ever had.

        Done before the parent's own event is written (a crash in between repeats it) and once
        more afterwards (a child may just have been made): the key lets it happen once.
        """
        if isinstance(post, Close):
            await self._close_below(state)
        if not isinstance(post, Say):
            return
        kind: InputKind = "pause" if post.kind == "pause" else "resume"
        if kind == "resume" and not (state.paused and post.kind in ("resume", "message")):
            return
        for call in open_errands(state):
            child = child_name(state.id, call.call.id)
            if await self.owner.kit.store.session(child) is not None:
                said = Say(kind, by=f"session {state.id}")
                await Session(self.owner, child).post(said, f"{kind}:{state.id}:{key}")

    async def _close_below(self, state: State) -> None:
        if state.turn is not None or state.closed:
            return  # not yet, or not any more
        for row in await self.owner.kit.store.sessions():
            if row.parent == state.id and row.status != "closed":
                close, key = Close(f"session {state.id}"), f"close:{state.id}"
                await Session(self.owner, row.id).post(close, key)

    async def stop(self, child: str, by: str) -> bool:
        """End whatever turn a child has open or waiting, its own children's first. When this
        returns nothing of it runs any more; False when this process ended first, and whoever
        goes on has to stop it.
        """
        session = Session(self.owner, child)
        self.awaited[child] += 1
        try:
            return await self._ended(session, f"session {by}")
        finally:
            self._forget(child)

    async def _ended(self, session: Session, by: str) -> bool:
        """End a child's turns, however long the store is away or full: it may still run."""
        closing = asyncio.ensure_future(self.closing.wait())
        try:
            while not closing.done():
                stopping = asyncio.ensure_future(self._stop(session, by))
                try:
                    await asyncio.wait((stopping, closing), return_when=asyncio.FIRST_COMPLETED)
                    if stopping.done():
                        stopping.result()
                        return True
                except Unavailable:
                    await asyncio.wait((closing,), timeout=self.owner.kit.bounds.poll_s)
                except PerdureError:
                    return True  # nobody can drive it here, so nothing of it runs here
                finally:
                    stopping.cancel()
            return False
        finally:
            closing.cancel()

    async def _stop(self, session: Session, by: str) -> None:
        try:
            state = await session.state()
        except NotFound:
            return
        if state.closed:
            return
        heard = False
        await session.interrupt(by=by)
        async with aclosing(session.follow(state.seq)) as items:
            async for item in items:
                if not isinstance(item, Event):
                    continue
                state = await follow(self.owner.kit.store, session.id, state, item)
                match item.payload:
                    case e.InputAccepted(kind="interrupt"):
                        heard = True
                    case e.TurnStarted():
                        # What was queued began before the interrupt could end it.
                        await session.interrupt(by=by)
                    case _:
                        pass
                if state.closed or (heard and state.turn is None and not state.queue):
                    return

    async def stop_all(self, state: State) -> None:
        """End the subagents that a session waits for, all at once."""
        names = [child_name(state.id, call.call.id) for call in open_errands(state)]
        if not all(await asyncio.gather(*(self.stop(name, state.id) for name in names))):
            raise asyncio.CancelledError


def elsewhere(session: str) -> Conflict:
    """Return the error of a subagent whose tree this process does not own."""
    return Conflict(
        "E-SUBAGENT-ELSEWHERE",
        f"{session} is a subagent, and another process owns the session it belongs to. What was "
        "posted is kept; only that process works on it, because the budget is counted there.",
        f"perdure watch {session}",
    )
