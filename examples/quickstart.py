"""An agent with one tool, and a session that any process can go on with.

Run it twice: the second run finds the session where the first one left it.
"""

import asyncio
from pathlib import Path

from perdure import Agent, Event, Runtime, tool

SCRIPT = Path(__file__).parent / "scripts" / "quickstart.toml"


@tool(effect="read")
def weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: the city's name
    """
    return f"18 degrees and dry in {city}"


guide = Agent(
    "guide",
    model=f"scripted:{SCRIPT}",  # for example: anthropic:claude-opus-5-5, openai:gpt-5.2
    instructions="Answer in one sentence.",
    tools=[weather],
)


async def main() -> None:
    async with Runtime("sqlite:///quickstart.db") as runtime:
        session = await runtime.session("trip-to-oslo", guide)
        async for piece in session.send("Do I need an umbrella in Oslo?"):
            if isinstance(piece, Event):  # durable, numbered; the rest are pieces of text
                print(f"{piece.seq:>3}  {piece.type}")
        state = await session.state()
        print(f"turn {state.turns} {state.last_status}: {state.spent.tool_calls} tool calls so far")


asyncio.run(main())
