"""A refund agent and the people beside it: small refunds pass by a rule, larger ones ask, and one
answer can be good for the rest of the session, never for what is forbidden.
"""

import asyncio
from pathlib import Path

from perdure import Agent, PerdureError, Rule, Runtime, Session, Verdict, tool
from perdure.core.events import ToolRequested

SCRIPT = Path(__file__).parent / "scripts" / "refund_agent.toml"


@tool(effect="once")
def refund(order: int, eur: float) -> str:
    """Pay money back."""
    print(f"     (the shop pays {eur:.2f} for order {order})")
    return f"refunded {eur:.2f}"


support = Agent(
    "support",
    model=f"scripted:{SCRIPT}",
    tools=[refund],
    permissions=[
        Rule("refund", Verdict.ALLOW, "eur <= 20", reason="Small change."),
        Rule("refund", Verdict.ASK, "eur > 20"),
        Rule("refund", Verdict.DENY, "eur > 500", reason="Not by an agent."),
    ],
)


async def asked(session: Session) -> str:
    """Go on until something is asked; return its id, or nothing when the turn is over."""
    async for _ in session.watch():
        pass
    for action in (await session.state()).actions.values():
        print(f"asked: {action.question}\n     the model wrote: {action.said}")
        return action.id
    return ""


async def main() -> None:
    async with Runtime("sqlite:///refunds.db") as runtime:
        session = await runtime.session("ticket-4712", support)
        await session.send("Five parcels broke: orders 1 to 5.")
        action = await asked(session)
        await session.allow(action, by="anna", scope="session", when="eur < 100")
        print("anna: yes, and below 100 do not ask me again in this session")
        try:
            await session.deny(action, by="bert", reason="wait for the photographs")
        except PerdureError as error:
            print(f"bert is too late: {error.message}")
        last = await asked(session)
        await session.deny(last, by="bert", reason="ask for the parcel back first")
        await asked(session)
        async for event in session.events():
            if isinstance(event.payload, ToolRequested):
                print(f"{event.seq:>3}  {event.payload.verdict:<5}  {event.payload.rule}")
        print("in force:", [grant.shown for grant in (await session.state()).grants.values()])
        await session.revoke(f"{session.id}:{action}", by="anna")
        print("after anna took it back:", list((await session.state()).grants))


asyncio.run(main())
