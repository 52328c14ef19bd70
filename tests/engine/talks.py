"""Sessions with a model that reads so much and no more."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from perdure.core import compacting
from perdure.core.agent import Compaction, RetryPolicy
from perdure.core.content import (
    ContextItem,
    ModelItem,
    Reasoning,
    ReplyItem,
    ResultItem,
    Text,
    ToolCall,
    Usage,
    UserItem,
    text_of,
)
from perdure.core.errors import error_info
from perdure.core.events import Event
from perdure.core.state import State
from perdure.engine.agent import Agent
from perdure.engine.journal import events_of
from perdure.engine.kit import Bounds, Kit
from perdure.engine.replay import replay
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.ports.model import Delta, Model, ModelFailed, ModelReply, ModelRequest, TextDelta
from perdure.ports.tool import Tool
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.testing.clocks import FakeClock, SeededIds
from perdure.testing.sim_model import what_is_wrong
from perdure.tools.python import tool

QUICK = RetryPolicy(attempts=2, base_s=0.01, cap_s=0.01)


class Small:
    """A model that reads so many characters and no more. It reads `pages` pages, one at a time."""

    def __init__(self, room: int, pages: int = 6, *, summary: str = "We read pages.") -> None:
        self.room = room
        self.pages = pages
        self.summary = summary
        self.no_summary: Sequence[str] = ()  # how each attempt at one fails, in turn
        self.refuse: Callable[[ModelRequest], bool] = lambda _request: False
        self.requests: list[ModelRequest] = []
        self.wrong: list[str] = []
        self.counts = False

    def get(self, name: str) -> tuple[Model, str]:
        return self, name

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | ModelReply]:
        self.requests.append(request)
        self.wrong += what_is_wrong(request.items)
        read = length(request.items)
        if request.instructions == compacting.INSTRUCTIONS:
            if self.no_summary:
                code, *self.no_summary = self.no_summary
                raise failure(code)
            said: tuple[ReplyItem, ...] = (Text(self.summary),)
        elif read > self.room:
            raise failure("E-CONTEXT-OVERFLOW")
        elif self.refuse(request):
            raise failure("E-MODEL-REJECT", "Item 3 with key sk-abcdefghijklmnopq is malformed.")
        else:
            said = self._next(request)
        yield TextDelta("…")
        usage = Usage(read // 4, 5) if self.counts else Usage(read // 4, 5, estimated=True)
        yield ModelReply(said, usage, "stop", provider="small", dialect="small")

    def _next(self, request: ModelRequest) -> tuple[ReplyItem, ...]:
        done = request.first_call - 1
        if done >= self.pages:
            return (Text(f"Read all {done}."),)
        name = f"{request.call_prefix}{request.first_call}"
        return (Reasoning("hm"), ToolCall(name, "read_page", f'{{"page": {done + 1}}}'))

    async def check(self) -> str:
        return "small"

    async def close(self) -> None: ...


def length(items: Sequence[ContextItem]) -> int:
    total = 0
    for item in items:
        match item:
            case UserItem(content=content):
                total += len(text_of(content))
            case ResultItem(text=text):
                total += len(text)
            case ModelItem(items=said):
                total += sum(len(getattr(i, "text", "")) + 20 for i in said)
    return total


def failure(code: str, said: str = "no") -> ModelFailed:
    retryable = code in ("E-MODEL-OVERLOADED", "E-MODEL-TORN")
    return ModelFailed(error_info(code, "model", said, retryable=retryable))


def reader(page_chars: int = 3_000) -> Tool:
    @tool(effect="read")
    def read_page(page: int) -> str:
        """Read a page."""
        return f"page {page} " + "p" * page_chars

    return read_page


def agent(page_chars: int = 3_000, **more: Any) -> Agent:
    more.setdefault("compaction", Compaction(keep_tokens=1_000))
    return Agent("reader", "small:m", tools=[reader(page_chars)], retry=QUICK, **more)


def engine_on(disk: MemoryDisk, model: Small, bounds: Bounds | None = None) -> Engine:
    bounds = bounds or Bounds(idle_s=0.0, poll_s=0.01)
    return Engine(Kit(MemoryStore(disk), FakeClock(), SeededIds(1), model, bounds=bounds))


async def run(
    model: Small, who: Agent | None = None, say: str = "Read the book."
) -> tuple[State, list[Event]]:
    store = MemoryDisk()
    async with engine_on(store, model) as engine:
        session = await engine.session("s", who or agent())
        state = await session.send(say)
        events = await journal(store)
    await exact(events)
    assert not model.wrong
    return state, events


async def journal(disk: MemoryDisk, session: str = "s") -> list[Event]:
    return [event async for event, _ in events_of(MemoryStore(disk), session)]


async def exact(events: Sequence[Event]) -> None:
    report = await replay(events)
    assert report.identical, str(report)
    assert report.events == len(events)


def of(events: Sequence[Event], kind: type[Any]) -> list[Any]:
    return [event.payload for event in events if isinstance(event.payload, kind)]


async def long_talk(session: Session, turns: int = 8) -> State:
    state = await session.state()
    for n in range(turns):
        state = await session.send(f"Remark {n}: " + "r" * 1_500)
    return state


async def talked(model: Small, who: Agent | None = None, turns: int = 8) -> list[Event]:
    """A conversation of words alone, so that nothing but a summary makes it shorter."""
    store = MemoryDisk()
    async with engine_on(store, model) as engine:
        session = await engine.session("s", who or agent())
        state = await long_talk(session, turns)
        assert state.last_status == "completed", state.last_error
    events = await journal(store)
    await exact(events)
    assert not model.wrong
    return events
