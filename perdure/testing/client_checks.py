"""What must hold of every journal with calls that clients answer: checked without the engine."""

from collections.abc import Collection, Iterable, Iterator, Mapping

from perdure.core import events as e
from perdure.core.agent import AgentSpec
from perdure.core.content import ToolCall
from perdure.core.events import Event
from perdure.core.timeline import effective


def unanswerable(
    spec: AgentSpec, events: Iterable[Event], given: Mapping[str, Collection[str]]
) -> Iterator[str]:
    """Yield what of a journal no client is to blame for.

    `given` are the answers that clients sent, by the call they are for. A call is put before it is
    answered and started by nobody; its first answer is the only one, and is what the model reads.
    """
    names = {tool.name for tool in spec.tools if tool.client}
    calls: dict[str, ToolCall] = {}
    put: dict[str, str] = {}
    answers: dict[str, str] = {}
    for event in effective(events):
        match event.payload:
            case e.ModelResponded(status="ok", items=items):
                mine = [i for i in items if isinstance(i, ToolCall) and i.tool in names]
                calls |= {i.id: i for i in mine}
            case e.ToolStarted(call_id=call_id) if call_id in calls:
                yield f"event {event.seq}: {call_id} was started, and is a client's"
            case e.ActionRequested(kind="answer", action_id=action, call_id=call_id):
                put[action] = call_id
            case e.ActionResolved(action_id=action, decision="done", result=text) if action in put:
                call_id = put[action]
                if call_id in answers:
                    yield f"event {event.seq}: {call_id} was answered before"
                answers.setdefault(call_id, text or "")
                if text not in given.get(call_id, ()):
                    yield f"event {event.seq}: no client answered {call_id} with {text!r}"
            case e.ToolFinished(status="ok", call_id=call_id, text=text) if call_id in calls:
                if answers.get(call_id) != text:
                    yield f"event {event.seq}: the model reads {text!r}, no answer to {call_id}"
            case _:
                pass
