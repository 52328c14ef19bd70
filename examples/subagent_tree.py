"""A tree of subagents with one budget, offline: python examples/subagent_tree.py

An editor gives three topics to researchers, and each researcher lets two readers look at sources.
All of them spend from the editor's budget. In the second round it is too small: whoever does not
fit is told so, nobody spends a token too much, and raising the limit at the top lets all go on.
"""

import asyncio
from typing import Any

import msgspec

from perdure import Agent, Limits, Runtime, Session, subagent, tool
from perdure.app import Options
from perdure.core.budget import Price
from perdure.core.events import SessionUpdated
from perdure.engine.kin import Tree
from perdure.models.scripted import Script, Scripted
from perdure.ports.model import Model

TOPICS = ("wind", "sun", "tides")


@tool(effect="read")
def source(name: str) -> str:
    """Read a source."""
    return f"{name}: 42 pages"


def editor(tokens: int) -> Agent:
    """Return the editor with its researchers and their readers, and a budget for all of them."""
    reader = Agent("reader", "scripted:reader", tools=[source], max_output_tokens=256)
    researcher = Agent(
        "researcher", "scripted:researcher", tools=[subagent(reader)], max_output_tokens=256
    )
    return Agent(
        "editor",
        "scripted:editor",
        tools=[subagent(researcher, max_depth=2, max_children=8)],
        limits=Limits(tokens=tokens),
        max_output_tokens=256,
    )


def calls(name: str, *tasks: str) -> dict[str, Any]:
    """Return a scripted reply that gives out tasks."""
    calls = [{"tool": name, "arguments": {"task": task}} for task in tasks]
    return {"call": calls, "usage": {"input_tokens": 300, "output_tokens": 60}}


def says(text: str) -> dict[str, Any]:
    """Return a scripted reply in words."""
    return {"text": text, "usage": {"input_tokens": 500, "output_tokens": 90}}


SCRIPTS = {
    "editor": [calls("researcher", *TOPICS), says("The issue is ready.")] * 2,
    "researcher": [calls("reader", "first source", "second source"), says("On {{last_user}}: 2.")],
    "reader": [
        {
            "call": [{"tool": "source", "arguments": {"name": "{{last_user}}"}}],
            "usage": {"input_tokens": 200, "output_tokens": 30},
        },
        says("{{last_result}}"),
    ],
}


class Cast:
    """Finds the script of each agent."""

    def get(self, name: str) -> tuple[Model, str]:
        """Return the model that plays the part."""
        replies = SCRIPTS[name.removeprefix("scripted:")]
        return Scripted(msgspec.convert({"reply": replies, "delay_s": 0.002}, Script)), name


def draw(tree: Tree) -> None:
    """Print the tree with what each session used."""
    for row in tree.rows:
        depth = row.id.count(".") // 2
        name = f"{'   ' * depth}{'└─ ' if depth else ''}{row.agent}"
        state = f"{row.status} {row.error}".strip()
        print(f"  {name:<24} {row.id:<20} {row.tokens:>6} tokens  {row.micro_usd:>6} µ$  {state}")
    print(f"  {'together':<45} {tree.tokens:>6} tokens  {tree.micro_usd:>6} µ$\n")


async def round_of(runtime: Runtime, name: str, tokens: int) -> Session:
    """Let an editor work with that budget and show what became of it."""
    print(f"A budget of {tokens} tokens for the whole tree:")
    session = await runtime.session(name, editor(tokens))
    await session.send("Make an issue about energy.")
    tree = await (await runtime.engine()).tree(name)
    draw(tree)
    assert tree.tokens <= tokens, "a budget was overshot"
    return session


async def main() -> None:
    """Show a budget that is enough, one that is not, and how it is raised."""
    prices = {"scripted:*": Price(input=3.0, output=15.0)}
    async with Runtime("memory:", Options(models=Cast(), prices=prices)) as runtime:
        await round_of(runtime, "plenty", 40_000)
        session = await round_of(runtime, "tight", 6_000)
        error = (await session.state()).last_error
        print(f"  {error.message if error else 'The editor itself had enough left.'}\n")

        print("Raised at the top, it is seen by all:")
        await session.update(SessionUpdated(by="example", limits=Limits(tokens=80_000)))
        async for _ in session.resume():  # with what was left undone, if anything was
            pass
        state = await session.send("Do the whole issue again.")
        draw(await (await runtime.engine()).tree("tight"))
        print(f"  The editor's turn: {state.last_status}.")


if __name__ == "__main__":
    asyncio.run(main())
