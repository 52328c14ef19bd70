"""Items that are brought into a transcript one by one, as a client wrote them."""

import msgspec

from perdure.core import events as e
from perdure.core.codec import Reader, encode
from perdure.core.content import ModelItem, ResultItem, Text, ToolCall, UserItem
from perdure.core.context import Transcript
from perdure.core.evolve import fold
from perdure.core.inbox import NOT_EDITED, AddItems, Brought, Post, accept
from perdure.wire.history import rounds
from tests.core.values import journal

RAW = msgspec.Raw(b'{"type":"message","id":"msg_1"}')
ODD = msgspec.Raw(b'{"type":"odd","x":"\\ud800"}')
HI = UserItem((Text("hi"),))
POST = AddItems(brought=(Brought(RAW, HI), Brought(ODD)))


def test_each_that_is_brought_is_an_event_of_its_own() -> None:
    state = fold(journal())
    taken = accept(state, POST, "k")
    assert taken == (
        e.ContextAdded((HI,), "k", "", (RAW,)),
        e.ContextAdded((), "k", "", (ODD,)),
    )
    after = fold(journal(*taken))
    assert after.owes_reply, "what no model is shown does not count as an answer"
    assert Transcript(journal(*taken)).items == [HI]
    letter = Reader[Post](Post).read(encode(POST))
    assert isinstance(letter, AddItems)
    assert [bytes(each.raw) for each in letter.brought] == [bytes(RAW), bytes(ODD)]


def test_while_a_turn_is_open_only_what_no_model_reads_comes_in() -> None:
    opened = journal(e.InputAccepted("message", (Text("go"),), "k"), e.TurnStarted(2))
    state = fold(opened)
    assert accept(state, POST, "k") == (e.NoteRecorded(NOT_EDITED),)
    (noted,) = accept(state, AddItems(brought=(Brought(ODD),)), "k")
    assert noted == e.ContextAdded((), "k", "", (ODD,))
    fold(journal(e.InputAccepted("message", (Text("go"),), "k"), e.TurnStarted(2), noted))


def test_what_a_summary_tells_of_cannot_be_left_out_any_more() -> None:
    told = (
        e.ContextAdded((HI,)),
        e.InputAccepted("message", (Text("go"),), "k"),
        e.TurnStarted(3),
        e.ContextCompacted(2, "so far: hi"),
        e.TurnEnded("completed"),
    )
    before = Transcript(journal(*told)).items
    assert Transcript(journal(*told, e.ContextDropped(2, 0))).items == before


def test_the_parts_of_a_reply_that_came_one_by_one_are_one_reply() -> None:
    one, two = ToolCall("x.1", "f", "{}", "c1"), ToolCall("x.2", "f", "{}", "c2")
    items: list[UserItem | ModelItem | ResultItem] = [
        HI,
        *(ModelItem((part,)) for part in (Text("so"), one, two)),
        ResultItem("x.1", "f", "1", False, "c1"),
        ResultItem("x.2", "f", "2", False, "c2"),
    ]
    found, dropped = rounds(items)
    assert dropped == []
    assert [r.reply.items for r in found if r.reply] == [(Text("so"), one, two)]
    kept = [ModelItem((Text("a"),), (RAW,), "d", "p"), ModelItem((Text("b"),))]
    assert len(rounds(kept)[0]) == 3, "what a provider wrote goes back to it as it was"
