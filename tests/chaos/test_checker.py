"""The history checker finds each anomaly that is planted in a good history, and no other one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from perdure.core import events as e
from perdure.core.content import as_content
from perdure.core.events import Event
from perdure.core.journal import GENESIS, Record, write
from perdure.testing.chaos import history as h
from perdure.testing.chaos.checker import History, Kind, check

OWNERS = ("a", "b", "c")  # the nodes of epoch 1, 2 and 3, each for three events


@dataclass
class Tale:
    """A history in the making: a session that three nodes owned one after the other."""

    seen: list[h.Observation] = field(default_factory=list)
    journal: list[Record] = field(default_factory=list)
    clock: int = 0

    def tick(self) -> int:
        self.clock += 10
        return self.clock

    def history(self) -> History:
        return History(self.seen, {"s": self.journal})

    def where(self, kind: type[h.Observation], number: int = 0) -> int:
        """Return the place of the n-th observation of a kind."""
        return [at for at, each in enumerate(self.seen) if isinstance(each, kind)][number]

    def change(self, kind: type[h.Observation], number: int, **changes: object) -> None:
        at = self.where(kind, number)
        self.seen[at] = msgspec.structs.replace(self.seen[at], **changes)


def event(seq: int) -> Event:
    if seq == 1:
        said = e.InputAccepted("message", as_content("go"), "k1")
        return Event(1, f"{1:026}", 1, 0, said)
    return Event(seq, f"{seq:026}", seq, 0, e.NoteRecorded(f"note {seq}"))


def good() -> Tale:
    """A node dies with a call of each kind in flight; another one takes over; and again."""
    tale = Tale()
    tale.seen.append(h.Posted("s", "k1", tale.tick()))
    end = GENESIS
    for epoch, node in enumerate(OWNERS, 1):
        seq = len(tale.journal)
        tale.seen.append(h.Claimed(node, "s", epoch, seq, epoch == 1, tale.tick()))
        made = []
        for number in range(seq + 1, seq + 4):
            made.append(write(event(number), end).record)
            end = made[-1].hash
        hashes = tuple(h.shortened(record.hash) for record in made)
        tale.seen.append(h.Offered(node, "s", epoch, seq + 1, hashes, tale.tick()))
        tale.seen.append(h.Acknowledged(node, "s", epoch, seq + 1, hashes, tale.tick()))
        tale.journal += made
        for call, effect in ((f"pay{epoch}", "once"), ("book", "idempotent")):
            tale.seen.append(h.Began(node, "s", call, call, effect, call, tale.tick()))
        if epoch < len(OWNERS):
            tale.seen.append(h.Struck(node, "SIGKILL", tale.tick()))
    for follower in OWNERS:
        for record in tale.journal:
            seen = h.Saw(follower, "s", record.seq, h.digest(event(record.seq)))
            tale.seen.append(seen)
        tale.seen.append(h.Followed(follower, "s"))
    return tale


def test_a_good_history_passes() -> None:
    history = good().history()
    assert check(history) == []
    assert history.takeovers == 2


def test_an_empty_history_passes() -> None:
    assert check(History([], {})) == []


def gap(tale: Tale) -> None:
    del tale.journal[4]


def chain_break(tale: Tale) -> None:
    tale.journal[4] = tale.journal[4]._replace(data=tale.journal[4].data.replace(b"note", b"nota"))


def lost_event(tale: Tale) -> None:
    del tale.journal[-1]


def replaced_event(tale: Tale) -> None:
    tale.journal[-1] = write(Event(9, "0" * 26, 9, 0, e.NoteRecorded("")), tale.journal[-2].hash)[0]


def lost_post(tale: Tale) -> None:
    tale.seen.append(h.Posted("s", "k2", tale.tick()))


def post_taken_twice(tale: Tale) -> None:
    said = e.InputAccepted("message", as_content("go"), "k1")
    tale.journal.append(write(Event(10, "0" * 26, 10, 0, said), tale.journal[-1].hash).record)


def follower_gap(tale: Tale) -> None:
    del tale.seen[tale.where(h.Saw, 4)]


def follower_end_missing(tale: Tale) -> None:
    del tale.seen[tale.where(h.Saw, 8)]


def follower_begins_late(tale: Tale) -> None:
    del tale.seen[tale.where(h.Saw, 0)]


def follower_duplicate(tale: Tale) -> None:
    at = tale.where(h.Saw, 4)
    tale.seen.insert(at, tale.seen[at])


def follower_disorder(tale: Tale) -> None:
    at = tale.where(h.Saw, 4)
    tale.seen[at], tale.seen[at + 1] = tale.seen[at + 1], tale.seen[at]


def follower_difference(tale: Tale) -> None:
    tale.change(h.Saw, 4, digest="0" * h.DIGEST_CHARS)


def follower_saw_what_was_never_kept(tale: Tale) -> None:
    at = tale.where(h.Followed, 0)
    tale.seen.insert(at, h.Saw("a", "s", 10, "0" * h.DIGEST_CHARS))


def follower_error(tale: Tale) -> None:
    tale.seen.append(h.FollowFailed("a", "s", "CorruptJournal"))


def once_ran_twice(tale: Tale) -> None:
    """By a node that was struck, so that nothing else is wrong with it."""
    tale.seen.append(h.Began("b", "s", "pay1", "pay1", "once", "pay1", tale.tick()))


def key_changed(tale: Tale) -> None:
    tale.change(h.Began, 1, key="another")


def stale_write(tale: Tale) -> None:
    """What node b wrote, node a had offered: its epoch was over."""
    offer = tale.seen[tale.where(h.Offered, 1)]
    tale.seen.remove(offer)
    tale.seen.insert(0, msgspec.structs.replace(offer, node="a", epoch=1, at_ns=1))
    del tale.seen[tale.where(h.Acknowledged, 1)]


def two_owners_of_one_epoch(tale: Tale) -> None:
    tale.seen.append(h.Claimed("z", "s", 2, 3, False, tale.tick()))


def two_owners_that_write(tale: Tale) -> None:
    """Node a goes on after b's claim, and is told that it is durable: at b's end, harmlessly."""
    tale.change(h.Offered, 0, at_ns=10_000)


def re_dispatch(tale: Tale) -> None:
    """Node a ran it, and nothing had befallen a."""
    del tale.seen[tale.where(h.Struck, 0)]


def re_dispatch_after_a_strike(tale: Tale) -> None:
    """What befell node a was over before it ran the call."""
    tale.change(h.Struck, 0, at_ns=1, until_ns=2)


PLANTED: list[tuple[Callable[[Tale], None], set[str]]] = [
    (gap, {"gap"}),
    (chain_break, {"chain break"}),
    (lost_event, {"lost event"}),
    (replaced_event, {"lost event"}),
    (lost_post, {"lost post"}),
    (post_taken_twice, {"post taken twice"}),
    (follower_gap, {"follower gap"}),
    (follower_end_missing, {"follower gap"}),
    (follower_begins_late, {"follower gap"}),
    (follower_duplicate, {"follower duplicate"}),
    (follower_disorder, {"follower disorder"}),
    (follower_difference, {"follower difference"}),
    (follower_saw_what_was_never_kept, {"follower difference"}),
    (follower_error, {"follower error"}),
    (once_ran_twice, {"once ran twice"}),
    (key_changed, {"key changed"}),
    (stale_write, {"stale write"}),
    (two_owners_of_one_epoch, {"two owners"}),
    (two_owners_that_write, {"two owners"}),
    (re_dispatch, {"re-dispatch"}),
    (re_dispatch_after_a_strike, {"re-dispatch"}),
]
# What is bound to be seen from another side as well.
ALSO = {
    "gap": {"lost event", "follower gap", "follower difference"},
    "chain break": {"follower difference"},
    "lost event": {"follower difference"},
    "post taken twice": {"follower gap"},
    "follower disorder": {"follower gap", "follower duplicate"},
}


@pytest.mark.parametrize(("plant", "kinds"), PLANTED, ids=lambda it: getattr(it, "__name__", ""))
def test_a_planted_anomaly_is_found(plant: Callable[[Tale], None], kinds: set[str]) -> None:
    tale = good()
    plant(tale)
    found = {anomaly.kind for anomaly in check(tale.history())}
    assert kinds <= found
    assert found <= kinds | {also for kind in kinds for also in ALSO.get(kind, set())}


def test_every_kind_of_anomaly_is_planted() -> None:
    assert {kind for _, kinds in PLANTED for kind in kinds} == set(get_args(Kind))


def test_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    notes = h.Notes(path, fsync=True)
    notes.write(h.Posted("s", "k", 1))
    notes.close()
    path.write_bytes(path.read_bytes() + b'{"type":"posted","se')
    tail = h.Tail(tmp_path)
    assert tail.poll() == [h.Posted("s", "k", 1)]
    path.write_bytes(path.read_bytes() + b'ssion":"s","key":"k","at_ns":2}\n')
    assert tail.poll() == [h.Posted("s", "k", 2)]
    assert tail.observations == [h.Posted("s", "k", 1), h.Posted("s", "k", 2)]
