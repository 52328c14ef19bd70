"""What a model wrote in the reply that made a call: the reason that people read before deciding."""

from typing import Final

from perdure.core.content import ModelItem, Reasoning, Text, ToolCall
from perdure.engine.work import Work

SAID_MAX: Final = 500  # characters that are kept with the question


async def said_with(work: Work, call_id: str) -> str:
    """Return what the model wrote beside a call; where it wrote nothing, what it thought.

    Empty where the reply is not in the transcript any more.
    """
    transcript = await work.journal.transcript()
    for item in reversed(transcript.items):
        if not isinstance(item, ModelItem):
            continue
        if any(isinstance(i, ToolCall) and i.id == call_id for i in item.items):
            said = "".join(i.text for i in item.items if isinstance(i, Text)).strip()
            thought = "".join(i.text for i in item.items if isinstance(i, Reasoning)).strip()
            return _cut(said or thought)
    return ""


def _cut(text: str) -> str:
    return text if len(text) <= SAID_MAX else text[: SAID_MAX - 1] + "…"
