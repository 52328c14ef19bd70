"""What was compacted or repaired is sent in a form that each vendor accepts."""

from random import Random

from hypothesis import HealthCheck, given, settings, strategies as st

from perdure.core import compacting
from perdure.core.compacting import Goal, Summarise
from perdure.core.content import ContextItem, ModelItem, Opaque, Reasoning, Text, ToolCall, UserItem
from perdure.core.context import Transcript, plain
from tests.core.test_compacting import SEEDS, Story, done
from tests.core.test_wire_requests import calls_and_results, each_dialect, sent
from tests.core.wire_values import Dialect, a_request, histories

SLOWLY = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])


def joined_up(dialect: Dialect, items: list[ContextItem]) -> None:
    """Every call has one result after it, and nothing else is answered."""
    open_calls: list[str] = []
    for kind, call_id in calls_and_results(dialect, sent(dialect, *items)):
        if kind == "call":
            assert call_id not in open_calls
            open_calls.append(call_id)
        else:
            open_calls.remove(call_id)
    assert not open_calls


@each_dialect
@SLOWLY
@given(items=histories())
def test_a_repaired_history_has_nothing_of_any_vendor(
    dialect: Dialect, items: list[ContextItem]
) -> None:
    repaired = [plain(item) for item in items]
    joined_up(dialect, repaired)
    assert [plain(item) for item in repaired] == repaired
    built = dialect.request(a_request(*repaired), dialect.provider)
    assert not [word for word in built.dropped if "reasoning" in word or "of a kind only" in word]
    for item in repaired:
        assert not (isinstance(item, ModelItem) and (item.raw or item.provider))


@each_dialect
def test_what_a_vendor_would_refuse_is_gone_or_says_so(dialect: Dialect) -> None:
    first = UserItem((Text("hello"),))
    strange = ModelItem((Reasoning("hm"), Text("  "), Opaque("web_search")), (), "other", "other")
    repaired = [first, plain(strange), UserItem((Text("again"),))]
    text = str(sent(dialect, *repaired))
    assert "(no words)" in text
    assert "hm" not in text
    call = ModelItem((Text(""), ToolCall("t1.1", "look", "{}", "foreign id!")))
    assert plain(call) == ModelItem((ToolCall("t1.1", "look", "{}", "foreign id!"),))


@each_dialect
@SLOWLY
@given(seed=SEEDS, keep=st.integers(0, 50_000), summary=st.booleans())
def test_a_compacted_history_has_no_orphans_on_the_wire(
    dialect: Dialect, seed: int, keep: int, summary: bool
) -> None:
    story = Story(Random(seed))
    way = compacting.plan(Transcript(story.events), Goal(1_000, keep, summary))
    if way is None:
        return
    items = done(story.events, way).items
    joined_up(dialect, items)
    built = dialect.request(a_request(*items), dialect.provider)
    assert not [w for w in built.dropped if "no call before it" in w or "had no result" in w]


def test_a_cut_between_a_call_and_its_result_would_be_seen() -> None:
    """Broken on purpose: any place will do."""
    for dialect in each_dialect.args[1]:
        found = 0
        for seed in range(40):
            story = Story(Random(seed))
            read = Transcript(story.events)
            right = compacting.cuts(read)
            for cut in range(1, len(read.items)):
                items = done(story.events, Summarise(read.seqs[cut - 1], cut)).items
                built = dialect.request(a_request(*items), dialect.provider)
                parted = any("no call before it" in word for word in built.dropped)
                assert not (parted and cut in right)
                found += parted
        assert found > 5
