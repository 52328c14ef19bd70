"""The process that drives one session for a command line, and survives it.

It has its own process session, so a Ctrl-C in the terminal does not reach it; it loads the agent's
code, works until the session rests or waits, and ends when nobody looks on any more. Killing it
loses nothing: the next one reads the journal.
"""

import argparse
import asyncio
import contextlib
import os
import queue
import signal
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from perdure.app import Options, Runtime
from perdure.cli.agents import Overrides, load_agent
from perdure.cli.asked import asked_in
from perdure.cli.elsewhere import listen, session_there
from perdure.cli.wire import FROM_NOW, Letter, Order, Ready, Said, Still, Trouble, up
from perdure.config import Project, load_project
from perdure.core import step as due
from perdure.core.budget import price_of
from perdure.core.codec import decode
from perdure.core.errors import NotFound, PerdureError
from perdure.core.events import Event, SessionUpdated
from perdure.core.inbox import Answer, Decide
from perdure.core.policy import approval_digest
from perdure.core.state import State
from perdure.core.step import next_step, status
from perdure.engine.agent import Agent
from perdure.engine.answers import ensure_open, post_answer
from perdure.engine.hub import Live
from perdure.engine.journal import follow
from perdure.engine.kin import Asleep, asleep, stuck
from perdure.engine.session import Session

BACKLOG: Final = 20_000
LOOK_AGAIN_S: Final = 1.0
NAP_S: Final = 60.0  # who sleeps no longer is waited for
_ORDER_BYTES: Final = 64 * 1024


def main(arguments: Sequence[str]) -> int:
    """Run `perdure _worker ID --agent REF --live-fd N`. What is to be done comes on standard
    input; the words are there for whoever lists processes.
    """
    parser = argparse.ArgumentParser("perdure _worker")
    parser.add_argument("id")
    parser.add_argument("--agent")
    parser.add_argument("--live-fd", type=int, default=-1)
    return work(parser.parse_args(arguments).live_fd)


def work(live_fd: int) -> int:
    """Drive a session as the order on standard input says; return the exit status."""
    outlet = Outlet(live_fd)
    inlet = Inlet(0)
    try:
        order = decode(inlet.first(), Order)
        return asyncio.run(_run(order, outlet, inlet))
    except PerdureError as error:
        outlet.send(Said(error=Trouble(error.code, error.message, error.hint, error.exit_code)))
        traceback.print_exc()
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the edge: the command line tells the person
        message = f"{type(error).__name__}: {error}. The journal is as it was."
        outlet.send(Said(error=Trouble("E-INTERNAL", message)))
        traceback.print_exc()
        return 1
    finally:
        outlet.close()


class Outlet:
    """The pipe to whoever looks on. A thread writes, so that a stopped reader stops nobody."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._deaf = fd < 0
        self._thread = threading.Thread(target=self._write, name="outlet", daemon=True)
        self._thread.start()

    def send(self, item: Event | Live | Said) -> None:
        """Say something. When too much is unread, pieces are dropped; then the pipe is closed,
        and its reader finds what it missed in the journal.
        """
        full = self._lines.qsize() >= BACKLOG
        if self._deaf or (full and isinstance(item, Live)):
            return
        if full:
            self._deaf = True
            self._lines.put(None)
            return
        self._lines.put(up(item))

    def close(self) -> None:
        """Let the reader have what is on the way, as far as it takes it soon."""
        self._lines.put(None)
        self._thread.join(timeout=2.0)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                view = memoryview(line)
                while view and not self._deaf:
                    view = view[os.write(self._fd, view) :]
            except OSError:
                self._deaf = True  # nobody listens: the work goes on all the same
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)


class Inlet:
    """Standard input: the order, then letters, then silence."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""
        self.silent = False
        self.news = asyncio.Event()
        self.letters: list[Letter] = []

    def first(self) -> bytes:
        """Return the first line. Raises `EOFError`."""
        while b"\n" not in self._rest:
            piece = os.read(self._fd, _ORDER_BYTES)
            if not piece:
                raise EOFError("no order came")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def listen(self) -> None:
        """Begin to take letters, in a thread: standard input may be anything."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), name="inlet", daemon=True).start()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody needs us any more
            while True:
                *lines, self._rest = self._rest.split(b"\n")
                for line in lines:
                    loop.call_soon_threadsafe(self._heard, decode(line, Letter))
                piece = os.read(self._fd, _ORDER_BYTES)
                if not piece:
                    loop.call_soon_threadsafe(self._heard, None)
                    return
                self._rest += piece

    def _heard(self, letter: Letter | None) -> None:
        if letter is None:
            self.silent = True
        else:
            self.letters.append(letter)
        self.news.set()


def runtime_of(
    project: Project, *, unsandboxed: bool = False, clerk: bool = False, wakes: bool = False
) -> Runtime:
    """Return the runtime as the project configures it. Only one that `wakes` goes on with
    sessions that nobody named.
    """
    options = Options(
        model_options=project.model_options,
        prices=project.prices,
        allow_unsandboxed=unsandboxed or project.settings.allow_unsandboxed,
        bounds=project.bounds,
        blobs=project.settings.blobs,
        clerk=clerk,
        wakes=wakes,
        api_key=project.api_key,
        ca_file=project.settings.remote.ca_file,
    )
    return Runtime(project.store_url, options)


async def _run(order: Order, outlet: Outlet, inlet: Inlet) -> int:
    project = load_project(Path(order.project))
    overrides = Overrides(order.model, order.in_place, order.unsandboxed, order.limits)
    agent = None if project.remote else load_agent(order.agent, project, overrides)
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        async with runtime_of(project, unsandboxed=order.unsandboxed) as runtime:
            session = await _session(runtime, order, agent)
            inlet.listen()
            await _Shift(runtime, session, order, outlet, inlet, project).work()
    except asyncio.CancelledError:
        return 0  # asked to go; what was in flight is taken up by the next worker
    return 0


async def _session(runtime: Runtime, order: Order, agent: Agent | None) -> Session:
    if agent is None:
        return await session_there(runtime, order)
    kit = (await runtime.engine()).kit
    if await kit.store.session(order.session) is None:
        if not order.create:
            message = f"There is no session {order.session}."
            raise NotFound("E-SESSION-UNKNOWN", message, "perdure ls")
        kit.models.get(agent.model)  # a name nobody knows makes no session
    return await runtime.session(order.session, agent, workspace=order.workspace, adopt=order.adopt)


class _Shift:
    """A worker's life: post what was ordered, tell what happens, leave when all is still."""

    def __init__(
        self,
        runtime: Runtime,
        session: Session,
        order: Order,
        outlet: Outlet,
        inlet: Inlet,
        project: Project,
    ) -> None:
        self._runtime = runtime
        self._session = session
        self._order = order
        self._outlet = outlet
        self._inlet = inlet
        self._project = project
        self._state = State()
        self._after = order.after
        self._limit_usd: float | None = None
        self._told: Still | None = None

    async def work(self) -> None:
        """Work until the session is still and nobody looks on."""
        self._state = await self._session.state()
        if self._order.letters:
            ensure_open(self._state)
        if self._after == FROM_NOW:
            self._after = self._state.seq if self._state.seq > 1 else 0
        if self._state.seq == 1 and not self._project.remote:
            await self._set_budget()
        self._outlet.send(Said(ready=self._ready()))
        await self._catch_up()
        await listen(self._session, self._state.seq)
        for letter in self._order.letters:
            await self._post(letter)
        if not self._order.letters:
            (await self._runtime.engine()).wake(self._session.id)
        following = asyncio.create_task(self._follow(), name="follow")
        listening = asyncio.create_task(self._listen(), name="listen")
        try:
            await asyncio.wait({following, listening}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
        finally:
            for task in (following, listening):
                task.cancel()
            await asyncio.gather(following, listening, return_exceptions=True)

    async def _set_budget(self) -> None:
        """Give a new session the project's budget, where its agent has none and money counts."""
        price = price_of(self._project.prices, self._state.spec.model)
        usd = self._project.settings.budget_usd
        if self._state.limits.usd is not None or usd <= 0 or not price or not price.output:
            return
        limits = msgspec.structs.replace(self._state.limits, usd=usd)
        await self._session.update(SessionUpdated(by="budget_usd", limits=limits))
        self._limit_usd = usd

    async def _catch_up(self) -> None:
        """Tell what the listener has not seen of what is in the journal already."""
        async for event in self._session.events(self._after, self._state.seq):
            self._outlet.send(event)

    async def _follow(self) -> None:
        """Tell what happens. Raises what the session's driver died of."""
        await self._tell_if_still()
        async for item in self._session.follow(self._state.seq):
            self._outlet.send(item)
            if isinstance(item, Event):
                store = (await self._runtime.engine()).kit.store
                self._state = await follow(store, self._session.id, self._state, item)
                await self._tell_if_still()

    async def _listen(self) -> None:
        """Take letters; end when the input has ended and the session is still.

        Looking again from time to time takes the session over when its owner is another process
        that dies meanwhile.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._inlet.news.wait()
            self._inlet.news.clear()
            letters, self._inlet.letters = self._inlet.letters, []
            for letter in letters:
                await self._post(letter)
            if await self._is_still():
                await self._tell_if_still()  # a subagent that waits says so in its own journal
                if self._inlet.silent:
                    return
            else:
                (await self._runtime.engine()).wake(self._session.id)

    async def _post(self, letter: Letter) -> None:
        post = letter.post
        if isinstance(post, Decide) and post.arguments is not None:
            post = self._bound(post, post.arguments)
        self._told = None
        if isinstance(post, Answer):
            await post_answer(self._session, self._state, post)
        else:
            await self._session.post(post, letter.key)
        self._outlet.send(Said(posted=letter.key))

    def _bound(self, post: Decide, arguments: str) -> Decide:
        """Bind edited arguments to the tool as it is pinned."""
        action = self._state.actions.get(post.action_id)
        turn = self._state.turn
        call = turn.calls.get(action.call_id) if turn and action else None
        spec = self._state.spec.tool(call.call.tool) if call else None
        digest = approval_digest(spec, arguments) if spec else ""
        return msgspec.structs.replace(post, arguments_digest=digest)

    async def _tell_if_still(self) -> None:
        if not await self._is_still():
            return
        still = await self._still()
        if still != self._told:
            self._told = still
            self._outlet.send(Said(still=still))

    async def _is_still(self) -> bool:
        store = (await self._runtime.engine()).kit.store
        rests = isinstance(next_step(self._state), due.Rest | due.Ask)
        if not rests and not await stuck(store, self._state) and not await self._sleeps_long():
            return False
        # The inbox first: what is taken from it meanwhile shows in the row.
        if await store.inbox(self._session.id):
            return False
        row = await store.session(self._session.id)
        return row is None or row.seq <= self._state.seq

    async def _sleeps_long(self) -> Asleep | None:
        """Return until when the session sleeps, if that is too long to look on."""
        kit = (await self._runtime.engine()).kit
        found = await asleep(kit.store, self._state)
        if found is None or found.until_us is None:
            return found
        return found if found.until_us - kit.clock.now_us() > NAP_S * 1_000_000 else None

    def _ready(self) -> Ready:
        state, spec = self._state, self._state.spec
        return Ready(
            pid=os.getpid(),
            session=state.id,
            agent=spec.name,
            version=state.version,
            model=spec.model,
            seq=state.seq,
            after=self._after,
            environment=spec.environment.kind,
            source=state.source,
            in_place=spec.environment.in_place,
            priced=price_of(self._project.prices, spec.model) is not None,
            limit_usd=self._limit_usd or state.limits.usd,
            spent=state.spent,
            calls=tuple(c.call for c in state.turn.calls.values()) if state.turn else (),
            asked=asked_in(state),
        )

    async def _still(self) -> Still:
        state = self._state
        below: tuple[str, ...] = ()
        if not isinstance(next_step(state), due.Rest | due.Ask):
            tree = await (await self._runtime.engine()).tree(state.id)
            below = tuple(row.id for row in tree.rows[1:] if row.status == "waiting")
        sleep = await self._sleeps_long()
        return Still(
            status="waiting" if below else "sleeping" if sleep else status(state),
            seq=state.seq,
            asked=asked_in(state),
            error=state.parked or state.last_error,
            spent=state.spent,
            last_status=state.last_status or "",
            changed=bool(state.snapshot),
            below=below,
            until_us=sleep.until_us if sleep else None,
            events=sleep.events if sleep else (),
        )
