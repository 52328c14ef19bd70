"""Journals of real events, for tests that read what they wrote as events."""

from perdure.core.agent import AgentSpec
from perdure.core.events import Event, NoteRecorded, Payload, SessionCreated
from perdure.core.journal import write
from perdure.ports.store import Batch, Claim, SessionRow, Store


def created(session: str) -> SessionCreated:
    return SessionCreated(session, AgentSpec("helper", "scripted:x"))


async def record(store: Store, claim: Claim, *payloads: Payload) -> Claim:
    """Append the payloads as one batch; return the claim with the new end of the journal."""
    seq, end, records = claim.seq, claim.hash, []
    for payload in payloads:
        seq += 1
        made, blob = write(Event(seq, f"{seq:026d}", seq, 0, payload), end)
        if blob is not None:
            await store.blobs.put(blob)
        records.append(made)
        end = made.hash
    row = SessionRow(id=claim.session, seq=seq, updated_at_us=seq)
    await store.append(Batch(claim.session, claim.epoch, claim.seq, records, row=row))
    return claim._replace(seq=seq, hash=end)


async def diary(store: Store, session: str, *notes: str) -> Claim:
    """Write a new session with these notes, one batch each."""
    claim = await record(store, await store.claim(session), created(session))
    for note in notes:
        claim = await record(store, claim, NoteRecorded(note))
    return claim
