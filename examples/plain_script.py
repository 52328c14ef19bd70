"""Perdure in a script without `async`: the same sessions, plain calls and plain loops."""

from pathlib import Path

from perdure import Agent, Live
from perdure.ports.model import TextDelta
from perdure.sync import Runtime

SCRIPT = Path(__file__).parent / "scripts" / "plain_script.toml"

poet = Agent("poet", model=f"scripted:{SCRIPT}", instructions="Rhyme.")

with Runtime("sqlite:///plain.db") as runtime:
    session = runtime.session("poem", poet)
    for piece in session.send("Something short about journals."):
        if isinstance(piece, Live) and isinstance(piece.piece, TextDelta):
            print(piece.piece.text, end="", flush=True)
    print()
    for row in runtime.sessions():
        print(f"{row.id}: {row.status}, {row.seq} events, {row.tokens} tokens")
