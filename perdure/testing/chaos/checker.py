"""Does a history hold what Perdure promises of many nodes? Finds, and names, what does not.

It trusts nothing that a node says of itself later: only what was written down at the moment, the
witness of the tools, and the journals as they lie in the store at the end.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Final, Literal, NamedTuple, TypeVar

from perdure.core.errors import CorruptJournal
from perdure.core.events import InputAccepted
from perdure.core.journal import GENESIS, Record, link, read
from perdure.testing.chaos import history as h

Kind = Literal[
    "gap",
    "chain break",
    "lost event",
    "lost post",
    "post taken twice",
    "follower gap",
    "follower duplicate",
    "follower disorder",
    "follower difference",
    "follower error",
    "once ran twice",
    "key changed",
    "stale write",
    "two owners",
    "re-dispatch",
]
T = TypeVar("T", bound=h.Observation)


class Anomaly(NamedTuple):
    """A promise that was broken, where, and how that can be seen."""

    kind: Kind
    session: str
    text: str


@dataclass
class History:
    """All that was observed in a run, and the journals at its end."""

    observations: Sequence[h.Observation]
    journals: Mapping[str, Sequence[Record]]
    _found: dict[type, list[h.Observation]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for each in self.observations:
            self._found[type(each)].append(each)

    def of(self, kind: type[T]) -> list[T]:
        """Return the observations of a kind, in the order of their files."""
        return [each for each in self._found[kind] if isinstance(each, kind)]

    @cached_property
    def claims(self) -> dict[str, list[h.Claimed]]:
        """The claims of each session, by epoch."""
        found: dict[str, list[h.Claimed]] = defaultdict(list)
        for claim in sorted(self.of(h.Claimed), key=lambda c: (c.epoch, c.at_ns)):
            found[claim.session].append(claim)
        return found

    @cached_property
    def writers(self) -> dict[tuple[str, str], h.Offered]:
        """Who offered the event of a session that has this hash."""
        return {(o.session, each): o for o in self.of(h.Offered) for each in o.hashes}

    @cached_property
    def takeovers(self) -> int:
        """How many sessions were taken from an owner that had not given them up."""
        return sum(
            not after.clean and after.node != before.node
            for claims in self.claims.values()
            for before, after in pairwise(claims)
        )


def check(history: History) -> list[Anomaly]:
    """Return everything that is wrong."""
    return [anomaly for look in CHECKS for anomaly in look(history)]


def journals_are_whole(history: History) -> Iterator[Anomaly]:
    """`seq` is dense and every hash follows from the one before."""
    for session, records in history.journals.items():
        previous = GENESIS
        for expected, record in enumerate(records, 1):
            if record.seq != expected:
                text = f"event {record.seq} stands where {expected} belongs"
                yield Anomaly("gap", session, text)
                break
            if link(previous, record.data) != record.hash:
                text = f"event {record.seq} does not follow from the one before"
                yield Anomaly("chain break", session, text)
                break
            previous = record.hash


def what_was_acknowledged_is_kept(history: History) -> Iterator[Anomaly]:
    """Every event that the store called durable is in the journal, and at its place."""
    kept = {
        session: {record.seq: h.shortened(record.hash) for record in records}
        for session, records in history.journals.items()
    }
    for told in history.of(h.Acknowledged):
        for seq, hash_ in enumerate(told.hashes, told.first):
            if kept.get(told.session, {}).get(seq) != hash_:
                text = f"event {seq} ({hash_}) was acknowledged to {told.node} and is not there"
                yield Anomaly("lost event", told.session, text)


def posts_are_taken_once(history: History) -> Iterator[Anomaly]:
    """Every message that was acknowledged is in the journal, and no message is in it twice."""
    taken = {session: Counter(_keys(records)) for session, records in history.journals.items()}
    for post in history.of(h.Posted):
        if not taken.get(post.session, Counter())[post.key]:
            yield Anomaly("lost post", post.session, f"{post.key} was acknowledged and never taken")
    for session, keys in taken.items():
        for key, times in keys.items():
            if times > 1:
                yield Anomaly("post taken twice", session, f"{key} was taken {times} times")


def _keys(records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        if record.type != "input.accepted":
            continue
        try:
            payload = read(record).payload
        except CorruptJournal:
            continue  # its hash is wrong as well, which is reported
        if isinstance(payload, InputAccepted) and payload.key:
            yield payload.key


def followers_see_each_event_once(history: History) -> Iterator[Anomaly]:
    """Each follower is handed event 1, 2, 3 and so on, as they are in the journal in the end."""
    seen: dict[tuple[str, str], list[h.Saw]] = defaultdict(list)
    for saw in history.of(h.Saw):
        seen[saw.follower, saw.session].append(saw)
    for (follower, session), handed in seen.items():
        yield from _one_follower(history, follower, session, handed)
    for done in history.of(h.Followed):
        last = max((s.seq for s in seen[done.follower, done.session]), default=0)
        end = len(history.journals.get(done.session, ()))
        if last < end:
            text = f"{done.follower} saw {last} of {end} events"
            yield Anomaly("follower gap", done.session, text)
    for failed in history.of(h.FollowFailed):
        yield Anomaly("follower error", failed.session, f"{failed.follower}: {failed.error}")


def _one_follower(
    history: History, follower: str, session: str, handed: list[h.Saw]
) -> Iterator[Anomaly]:
    journal = history.journals.get(session, ())
    seqs: set[int] = set()
    due = 1
    for saw in handed:
        what = f"{follower} was handed event {saw.seq}, due was {due}"
        if saw.seq in seqs:
            yield Anomaly("follower duplicate", session, what)
        elif saw.seq < due:
            yield Anomaly("follower disorder", session, what)
        elif saw.seq > due:
            yield Anomaly("follower gap", session, what)
        seqs.add(saw.seq)
        due = max(due, saw.seq + 1)
        if saw.seq > len(journal) or h.digest_of(journal[saw.seq - 1].data) != saw.digest:
            text = f"{follower} was handed an event {saw.seq} that is not the journal's"
            yield Anomaly("follower difference", session, text)


def effects_happen_as_declared(history: History) -> Iterator[Anomaly]:
    """A `once` tool left one line in the world; an idempotent one used one key for each call."""
    calls: dict[tuple[str, str], list[h.Began]] = defaultdict(list)
    for began in history.of(h.Began):
        calls[began.session, began.call].append(began)
    for (session, call), runs in calls.items():
        by = ", ".join(run.node for run in runs)
        if runs[0].effect == "once" and len(runs) > 1:
            yield Anomaly("once ran twice", session, f"{runs[0].tool} {call} ran on {by}")
        if len({run.key for run in runs}) > 1:
            yield Anomaly("key changed", session, f"{call} used several keys, on {by}")


def old_epochs_are_over(history: History) -> Iterator[Anomaly]:
    """Behind the place where an epoch began stands nothing that an older one wrote."""
    for session, records in history.journals.items():
        claims = history.claims.get(session, [])
        epoch, at = 0, 0
        for record in records:
            while at < len(claims) and claims[at].seq < record.seq:
                epoch, at = max(epoch, claims[at].epoch), at + 1
            writer = history.writers.get((session, h.shortened(record.hash)))
            if writer is not None and writer.epoch < epoch:
                text = f"{writer.node} (epoch {writer.epoch}) wrote event {record.seq} in {epoch}"
                yield Anomaly("stale write", session, text)


def one_owner_at_a_time(history: History) -> Iterator[Anomaly]:
    """No epoch is two nodes', and nothing that was offered after a later claim was acknowledged."""
    # Where one was offered again because nobody could tell, it may have landed the first time.
    again = reversed(history.of(h.Offered))
    offered = {(o.node, o.session, o.epoch, o.first, o.hashes): o for o in again}
    for session, claims in history.claims.items():
        for one, other in pairwise(claims):
            if one.epoch == other.epoch:
                text = f"epoch {one.epoch} was given to {one.node} and to {other.node}"
                yield Anomaly("two owners", session, text)
    for told in history.of(h.Acknowledged):
        offer = offered.get((told.node, told.session, told.epoch, told.first, told.hashes))
        later = [c for c in history.claims.get(told.session, ()) if c.epoch > told.epoch]
        if offer and any(claim.at_ns < offer.at_ns for claim in later):
            text = f"{told.node} (epoch {told.epoch}) wrote when {later[0].node} owned it already"
            yield Anomaly("two owners", told.session, text)


def running_tools_are_left_alone(history: History) -> Iterator[Anomaly]:
    """A call runs once more only when something befell the node that ran it, or its store."""
    calls: dict[tuple[str, str], list[h.Began]] = defaultdict(list)
    for began in history.of(h.Began):
        calls[began.session, began.call].append(began)
    strikes = history.of(h.Struck)
    for (session, call), runs in calls.items():
        runs.sort(key=lambda run: run.at_ns)
        for first, second in pairwise(runs):
            if not any(_explains(strike, first, second) for strike in strikes):
                text = f"{first.tool} {call} of {first.node} was run again by {second.node}"
                yield Anomaly("re-dispatch", session, text)


def _explains(strike: h.Struck, first: h.Began, second: h.Began) -> bool:
    """Whether it befell one of the two while the first may have run."""
    if strike.node not in {"", first.node, second.node}:
        return False
    return strike.at_ns <= second.at_ns and strike.until_ns >= first.at_ns


CHECKS: Final[tuple[Callable[[History], Iterator[Anomaly]], ...]] = (
    journals_are_whole,
    what_was_acknowledged_is_kept,
    posts_are_taken_once,
    followers_see_each_event_once,
    effects_happen_as_declared,
    old_epochs_are_over,
    one_owner_at_a_time,
    running_tools_are_left_alone,
)
