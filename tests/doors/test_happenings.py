"""A journal as items: the same stream however often it is read, whatever died in between."""

from hypothesis import given, strategies as st

from perdure.core import events as e
from perdure.core.agent import AgentSpec
from perdure.core.content import Reasoning, Text, ToolCall
from perdure.core.events import Event, Payload
from perdure.doors.openai.happenings import Added, Done, Happening, Items, Piece, Words

SPEC = AgentSpec("a", "m:x")


def happen(*payloads: Payload) -> tuple[Items, list[Happening]]:
    items, found = Items(SPEC), []
    for seq, payload in enumerate(payloads, 1):
        found += items.feed(Event(seq, f"E{seq}", seq, 1, payload))
    return items, found


def shown(happenings: list[Happening]) -> str:
    return "".join(h.delta for h in happenings if isinstance(h, Piece))


def reply(*texts: str) -> e.ModelResponded:
    return e.ModelResponded("ok", items=tuple(Text(t) for t in texts))


ASK = e.ModelRequested("m")
LOST = e.ModelResponded("lost")


def test_pieces_then_the_whole() -> None:
    items, found = happen(
        ASK, e.ModelDelta("text", "Hel"), e.ModelDelta("text", "lo"), reply("Hello!")
    )
    assert [type(h) for h in found] == [Added, Piece, Piece, Piece, Done]
    assert shown(found) == "Hello!"
    assert [i.status for i in items.items] == ["completed"]


def test_a_second_attempt_goes_on_where_the_first_broke_off() -> None:
    first = (ASK, e.ModelDelta("text", "Hello w"), LOST, ASK)
    items, found = happen(
        *first, e.ModelDelta("text", "Hel"), e.ModelDelta("text", "lo world"), reply("Hello world")
    )
    assert shown(found) == "Hello world"
    assert len(items.items) == 1


def test_a_second_attempt_that_says_something_else_begins_anew() -> None:
    first = (ASK, e.ModelDelta("text", "Hello w"), LOST, ASK)
    items, found = happen(*first, e.ModelDelta("text", "Help"), reply("Help!"))
    assert [(i.text, i.status) for i in items.items if isinstance(i, Words)] == [
        ("Hello w", "incomplete"),
        ("Help!", "completed"),
    ]
    assert shown(found) == "Hello wHelp!"


def test_reasoning_words_and_calls_have_their_order() -> None:
    call = ToolCall("t1.1", "f", "{}")
    items, _ = happen(
        ASK,
        e.ModelDelta("reasoning", "hm"),
        e.ModelDelta("text", "so"),
        e.ModelResponded("ok", items=(Reasoning("hm"), Text("so"), call)),
    )
    assert [getattr(i, "channel", "call") for i in items.items] == ["reasoning", "text", "call"]
    assert {i.status for i in items.items} == {"completed"}


def test_a_shorter_second_attempt_does_not_take_back_what_was_shown() -> None:
    items, found = happen(ASK, e.ModelDelta("text", "Hello world"), LOST, ASK, reply("Hello"))
    assert items.items[0].status == "incomplete"
    assert shown(found).startswith("Hello world")


@given(st.text("ab", max_size=12), st.lists(st.integers(0, 12), max_size=6), st.integers(1, 4))
def test_the_same_words_are_shown_once_however_often_it_dies(
    text: str, cuts: list[int], width: int
) -> None:
    payloads: list[Payload] = []
    for cut in cuts:
        payloads.append(ASK)
        part = text[:cut]
        payloads += [e.ModelDelta("text", part[i : i + width]) for i in range(0, len(part), width)]
        payloads.append(LOST)
    items, found = happen(*payloads, ASK, reply(text))
    assert shown(found) == text
    assert all(i.status == "completed" for i in items.items)
    ids = [h.item.id for h in found if isinstance(h, Added)]
    assert len(ids) == len(set(ids))
