"""Forks and rewinds that are wrong on purpose, each in one way. None of them is for use."""

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.context import Transcript
from perdure.core.events import Event, Payload
from perdure.core.state import CallState, Phase, State
from perdure.core.timeline import effective
from perdure.engine.driver import Driver
from perdure.engine.journal import Journal, events_of, load
from perdure.engine.kit import Kit
from perdure.engine.work import Place
from perdure.ports.store import Claim
from perdure.testing.broken import SEEDS_MAX, Variant
from perdure.testing.broken_engines import Rewrites, with_driver, with_journal
from perdure.testing.sim_branches import Branching
from perdure.testing.simulation import Build, Report, simulate


class SeesLater(Journal):
    """Shows a fork's model what was said in its origin after the cut."""

    async def transcript(self) -> Transcript:
        """Return the transcript with the origin's later letters."""
        fresh = self._transcript is None
        found = await super().transcript()
        async for event, _ in events_of(self._kit.store, self.claim.session):
            p = event.payload
            if fresh and isinstance(p, e.SessionForked) and p.session == self.claim.session:
                later = [ev async for ev, _ in events_of(self._kit.store, p.origin, p.at, None)]
                found.items.extend(Transcript(effective(later)).items)
        return found


class ForgetsWhatLeft(Journal):
    """Takes every call that was open at the cut for one that has not left."""

    def rewind(self, payload: e.SessionRewound, base: State, *, taken: str) -> None:
        """Go back, and question nothing."""
        super().rewind(replace(payload, unsafe=()), base, taken=taken)


class KeepsDecisions(Journal):
    """Spends one decision to run a call in two lines of time."""

    @classmethod
    async def open(cls, kit: Kit, claim: Claim) -> Journal:
        """Open, and let what was ready in the origin be ready in its fork."""
        journal = await super().open(kit, claim)
        turn, last = journal.state.turn, max(claim.seq - 1, 0)
        async for event, _ in events_of(kit.store, claim.session, last, None):
            before, _, _ = await load(kit.store, claim.session, last)
            forked = isinstance(event.payload, e.SessionForked)
            if forked and turn is not None and before.turn is not None:
                calls = {k: _again(c, before.turn.calls[k]) for k, c in turn.calls.items()}
                journal.state = replace(journal.state, turn=replace(turn, calls=calls))
        return journal


def _again(call: CallState, before: CallState) -> CallState:
    return before if before.phase is Phase.READY else call


class GivesBack(Journal):
    """Gives back what was spent on the time that was taken back."""

    def rewind(self, payload: e.SessionRewound, base: State, *, taken: str) -> None:
        """Go back, the money too."""
        super().rewind(payload, base, taken=taken)
        self.state = replace(self.state, spent=base.spent)


class CountsFromThere(Journal):
    """Numbers the calls after a rewind as if there had been none."""

    def rewind(self, payload: e.SessionRewound, base: State, *, taken: str) -> None:
        """Go back, and be no generation further."""
        super().rewind(payload, base, taken=taken)
        self.state = replace(self.state, generation=base.generation)


class RemembersAll(Journal):
    """Keeps the transcript that is in memory over a rewind."""

    def rewind(self, payload: e.SessionRewound, base: State, *, taken: str) -> None:
        """Go back, but for what was read."""
        kept = self._transcript
        super().rewind(payload, base, taken=taken)
        self._transcript = kept


class DropsLetters(Journal):
    """Throws away with the time that was taken back what nobody had read."""

    async def transcript(self) -> Transcript:
        """Return the transcript without letters that outlived a rewind."""
        if self._transcript is None:
            await self.durable()
            kept: list[Event] = []
            async for event, _ in events_of(self._kit.store, self.claim.session):
                if isinstance(event.payload, e.SessionRewound):
                    to = event.payload.to
                    kept = [k for k in kept if k.seq <= to]
                kept.append(event)
            self._transcript = Transcript(kept)
        return self._transcript


class LeavesFiles(Place):
    """Says that the workspace was taken back, and leaves it as it is."""

    async def back_to(self, snapshot: str, call_id: str) -> None:
        """Go back for a call only."""
        if call_id:
            await super().back_to(snapshot, call_id)
        else:
            self._journal.append(e.EnvironmentRestored(snapshot))


class LeavesFilesDriver(Driver):
    """A driver with such a place."""

    place_type = LeavesFiles


class GoesOn(Rewrites):
    """Begins to work in a fork before anybody asked for it."""

    def append(self, *payloads: Payload, taken: str = "") -> None:
        """Append, and be paused no more after a fork."""
        super().append(*payloads, taken=taken)
        for p in payloads:
            if isinstance(p, e.EnvironmentRestored):
                self.state = replace(self.state, paused=False)


def _journal(journal: type[Journal], *seen_by: str) -> Variant:
    return Variant(Build(engine=with_journal(journal)), seen_by)


BRANCH_VARIANTS: Final[Mapping[str, Variant]] = {
    "fork sees later events": _journal(SeesLater, "reading"),
    "rewind forgets what left": _journal(ForgetsWhatLeft, "once"),
    "decision spent in two lines": _journal(KeepsDecisions, "once", "journal"),
    "rewind gives money back": _journal(GivesBack, "folds"),
    "call ids come again": _journal(CountsFromThere, "ids"),
    "transcript outlives a rewind": _journal(RemembersAll, "reading"),
    "rewind drops letters": _journal(DropsLetters, "reading"),
    "workspace not taken back": Variant(
        Build(engine=with_driver(LeavesFilesDriver)), ("workspace",)
    ),
    "branch goes on by itself": _journal(GoesOn, "obedience"),
}


def catch_branch(name: str, seeds_max: int = SEEDS_MAX) -> Report | None:
    """Run a variant until it is seen; None when it was not."""
    variant = BRANCH_VARIANTS[name]
    for seed in range(seeds_max):
        report = simulate(seed, "memory", variant.build, kind=Branching)
        if any(violation.partition(":")[0] in variant.seen_by for violation in report.violations):
            return report
    return None
