"""A form that another program fills in: the session waits for the answer and takes it once.

Three runtimes on one store stand for three processes: one asks and ends, one that knows nothing of
the agent's code answers, one goes on.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from perdure import Agent, PerdureError, Runtime, ask_user, form
from perdure.app import Options

STORE = "sqlite:///forms.db"
SCRIPT = Path(__file__).parent / "scripts" / "forms.toml"


@dataclass
class Address:
    """Where a parcel goes."""

    street: str
    number: int


ship_to = form("ship_to", "Ask the customer where to send the parcel.", Address)
shop = Agent("shop", model=f"scripted:{SCRIPT}", tools=[ship_to, ask_user])


async def ask() -> None:
    """Work until the form is open, and end."""
    async with Runtime(STORE) as runtime:
        session = await runtime.session("order-9", shop)
        await session.send("Please send the vase.")


async def answer() -> None:
    """Be a web server: find what is open, show the form, hand in what was typed."""
    async with Runtime(STORE, Options(clerk=True)) as runtime:
        session = await runtime.session("order-9")
        state = await session.state()
        (action,) = state.actions.values()
        assert state.turn is not None
        tool = state.spec.tool(state.turn.calls[action.call_id].call.tool)
        assert tool is not None
        print(f"waiting for {tool.name}: {tool.answer_schema}")
        for typed in ({"street": "Elm", "number": "four"}, {"street": "Elm", "number": 4}):
            try:
                event = await session.answer(action.call_id, typed, by="anna@web")
            except PerdureError as error:
                print(f"  {error.code}: {error.message}")
            else:
                print(f"  taken as event {event.seq}")
        again = await session.answer(action.call_id, {"street": "Elm", "number": 4}, by="anna@web")
        print(f"  sent again: still event {again.seq}")
        try:
            await session.answer(action.call_id, {"street": "Oak", "number": 1}, by="ben@web")
        except PerdureError as error:
            print(f"  {error.code}: {error.message}")


async def go_on() -> None:
    """Go on with what was answered; then close the session, and fork it all the same."""
    async with Runtime(STORE) as runtime:
        session = await runtime.session("order-9", shop)
        async for _ in session.watch():
            pass
        said = (await session.context())[-1]
        print("".join(getattr(item, "text", "") for item in getattr(said, "items", ())))
        await session.close(by="anna@web")
        fork = await session.fork()
        paused = "paused" if (await fork.state()).paused else "running"
        print(f"{session.id} is closed, and its fork is {paused}")


async def main() -> None:
    await ask()
    await answer()
    await go_on()


asyncio.run(main())
