"""A program that decides: small refunds pass, larger ones are asked about, some are refused.

The answers are bound to exactly the arguments that were shown; the decision is in the journal.
"""

import asyncio
import json
from pathlib import Path

from perdure import Agent, Rule, Runtime, Session, Verdict, tool
from perdure.engine.summary import describe

SCRIPT = Path(__file__).parent / "scripts" / "approvals.toml"


@tool(effect="once", ask="eur > 20")
def refund(order: int, eur: float) -> str:
    """Pay money back."""
    print(f"     (the shop pays {eur:.2f} for order {order})")
    return f"refunded {eur:.2f}"


support = Agent(
    "support",
    model=f"scripted:{SCRIPT}",
    tools=[refund],
    permissions=[Rule("refund", Verdict.DENY, "eur > 500", reason="Not by an agent.")],
)


async def decide(session: Session) -> None:
    """Answer what is open: our rule here is that 100 is enough for anybody."""
    state = await session.state()
    assert state.turn is not None
    for action in state.actions.values():
        arguments = json.loads(state.turn.calls[action.call_id].call.arguments)
        if arguments["eur"] <= 100:
            await session.allow(action.id, by="the rule of 100", seen=action.digest)
        else:
            smaller = json.dumps(arguments | {"eur": 100.0})
            await session.allow(action.id, by="the rule of 100", arguments=smaller)
        print(f"     asked: {action.question}")


async def main() -> None:
    async with Runtime("sqlite:///approvals.db") as runtime:
        session = await runtime.session("ticket-4711", support)
        await session.send("Three parcels broke: orders 1, 2 and 3.")
        while (await session.state()).actions:
            await decide(session)
            async for _ in session.watch():
                pass
        async for event in session.events():
            if event.type in ("tool.requested", "action.resolved", "tool.finished"):
                print(f"{event.seq:>3}  {event.type:<16} {describe(event)}")


asyncio.run(main())
