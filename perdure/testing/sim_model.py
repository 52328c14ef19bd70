"""A model of the simulated world. What it says follows from the seed, the session and its place
in the context; it keeps a bill, and it looks at each transcript as a strict vendor would.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from random import Random
from typing import Final

import msgspec

from perdure.core.agent import ToolSpec
from perdure.core.budget import Price
from perdure.core.codec import encode
from perdure.core.content import (
    ContextItem,
    ModelItem,
    ReplyItem,
    ResultItem,
    Text,
    ToolCall,
    Usage,
    UserItem,
)
from perdure.core.errors import error_info
from perdure.ports.model import Delta, Model, ModelFailed, ModelReply, ModelRequest, TextDelta
from perdure.testing.sim_tools import ACTS
from perdure.testing.simloop import Owner
from perdure.testing.world import World

PRICE: Final = Price(input=2.0, output=8.0)
TORN: Final = "half a sen"


class SimModel:
    """One process's connection to the provider. The model's name is the session's."""

    def __init__(self, world: World, owner: Owner, seed: int, price: Price = PRICE) -> None:
        self._price = price
        self._world = world
        self._owner = owner
        self._seed = seed
        self._whimsical = seed % 3 == 0  # asked again for the same reply, it says something else

    def get(self, name: str) -> tuple[Model, str]:
        """See `Models.get`."""
        return self, name.partition(":")[2]

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | ModelReply]:
        """Answer as planned for this place, or fail as planned for this attempt."""
        session = self.session_of(request)
        for wrong in what_is_wrong(request.items):
            self._world.violated("transcript", f"{session}: {wrong}")
        for wrong in self._world.reading(session, request.items):
            self._world.violated("reading", f"{session}: {wrong}")
        place = sum(isinstance(item, ModelItem) for item in request.items)
        self._world.model_calls[session] += 1
        self._world.note(f"{self._owner.name}: {session} model call {place}#{request.attempt}")
        read = tokens_read(request)
        calls = self._world.model_calls[session] if self._whimsical else 0
        dice = Random(f"{self._seed}/{session}/{place}/{calls}")
        await self._world.point(self._owner, "model.before")
        async for piece in self._fail(session, dice, request):
            yield piece
        self._world.bill(session, read, self._price.input)
        items = self.plan(dice, place, request)
        wrote = min(sum(tokens_of(item) for item in items), request.max_output_tokens)
        self._world.bill(session, wrote, self._price.output)
        for item in items:
            if isinstance(item, Text):
                yield TextDelta(item.text[:3])
                await self._world.point(self._owner, "model.middle")
        await self._world.point(self._owner, "model.after")
        calls = any(isinstance(item, ToolCall) for item in items)
        usage = Usage(input_tokens=read, output_tokens=wrote)
        raw = msgspec.Raw(encode({"place": place, "wrote": wrote}))
        yield ModelReply(
            items, usage, "tool_calls" if calls else "stop", (raw,), "sim", "sim", session
        )

    def session_of(self, request: ModelRequest) -> str:
        """Return the session that asks: the model has its name."""
        return request.model

    def plan(self, dice: Random, place: int, request: ModelRequest) -> tuple[ReplyItem, ...]:
        """Return what is said at this place."""
        return plan(dice, place, request)

    async def _fail(
        self, session: str, dice: Random, request: ModelRequest
    ) -> AsyncIterator[Delta | ModelReply]:
        """Fail the first attempts of some calls, in each of the ways that providers know."""
        times, kind = dice.choice((0, 0, 0, 0, 0, 1, 1, 2, 9)), dice.randrange(5)
        if request.attempt > times:
            return
        if kind == 0:
            raise _failed("E-MODEL-REFUSED", retryable=False)
        if kind == 1:
            raise _failed("E-MODEL-RATE", retryable=True, retry_after_s=dice.choice((1, 90, 600)))
        if kind == 2:
            self._world.bill(session, tokens_read(request), self._price.input)
            self._world.bill(session, 3, self._price.output)
            yield TextDelta(TORN)
            await self._world.point(self._owner, "model.torn")
            info = error_info("E-MODEL-TORN", "model", "torn", retryable=True)
            raise ModelFailed(info, partial=TORN)
        if kind == 3:
            await asyncio.sleep(200)
        raise _failed("E-MODEL-OVERLOADED", retryable=True)

    async def check(self) -> str:
        """See `Model.check`."""
        return "simulated"

    async def close(self) -> None:
        """See `Model.close`."""


def _failed(code: str, *, retryable: bool, retry_after_s: float | None = None) -> ModelFailed:
    info = error_info(code, "model", "as planned", retryable=retryable, retry_after_s=retry_after_s)
    return ModelFailed(info)


def plan(dice: Random, place: int, request: ModelRequest) -> tuple[ReplyItem, ...]:
    """Return what is said at this place: words, and mostly some calls; never for ever."""
    items: list[ReplyItem] = [Text(f"reply {place} of {request.model}")]
    if not request.tools or dice.random() < 0.3 + place / 12:
        return tuple(items)
    for number in range(dice.choice((1, 1, 2, 3))):
        name = f"{request.call_prefix}{request.first_call + number}"
        items.append(ToolCall(name, *_call(dice, request.tools), f"v-{name}"))
    return tuple(items)


def _call(dice: Random, tools: tuple[ToolSpec, ...]) -> tuple[str, str]:
    """Return a tool's name and arguments; now and then neither is any good."""
    name = dice.choice(tools).name
    arguments = json.dumps({"n": dice.randrange(10), "act": dice.choice(ACTS)})
    match dice.randrange(30):
        case 0:
            return "nothing", arguments
        case 1:
            return name, '{"n": '
        case 2:
            return name, '{"n": "seven"}'
        case _:
            return name, arguments


def what_is_wrong(items: tuple[ContextItem, ...]) -> list[str]:
    """Say what a vendor would refuse: calls without results, results without calls, order."""
    wrong: list[str] = []
    owed: dict[str, ToolCall] = {}
    for place, item in enumerate(items):
        if isinstance(item, ResultItem):
            call = owed.pop(item.call_id, None)
            if call is None:
                wrong.append(f"item {place}: a result for {item.call_id}, which is not owed")
            continue
        if owed:
            wrong.append(f"item {place}: {type(item).__name__} while {sorted(owed)} are owed")
            owed = {}
        if isinstance(item, ModelItem):
            owed = {i.id: i for i in item.items if isinstance(i, ToolCall)}
            if any(isinstance(i, Text) and TORN in i.text for i in item.items):
                wrong.append(f"item {place}: a torn reply was spliced in")
    if owed:
        wrong.append(f"at the end: no result for {sorted(owed)}")
    if not items or isinstance(items[-1], ModelItem):
        wrong.append("nothing to answer")
    return wrong


def tokens_read(request: ModelRequest) -> int:
    """Count like a tokenizer: a third of the bytes, the same for the same item each time."""
    fixed = len(encode(request.instructions)) + sum(len(encode(t)) for t in request.tools)
    return fixed // 3 + sum(tokens_of(item) for item in request.items)


def tokens_of(item: ContextItem | ReplyItem) -> int:
    """Return the tokens of one item; a reply counts what it was billed when it was written."""
    if isinstance(item, ModelItem) and item.raw:
        said = msgspec.json.decode(item.raw[0])
        return int(said["wrote"])
    if isinstance(item, UserItem | ResultItem):
        return len(encode(item)) // 2 + 8
    return len(encode(item)) // 3 + 4
