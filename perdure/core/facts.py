"""Facts about sessions and their environments, and what all facts of a journal share.

See `events.py`, which has all of them together.
"""

from typing import Final

import msgspec

from perdure.core.agent import AgentSpec, Limits
from perdure.core.errors import ErrorInfo

FORMAT: Final = 1


class Fact(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="type"):
    """What all payloads share: immutable, tagged with their type, defaults left out."""


class SessionCreated(Fact, frozen=True, tag="session.created"):
    """The first event. Pins the agent as it was; `source` is the user's directory or empty.

    A subagent's session names its `parent` and the call there that it answers, `parent_call`.
    Its agent is already narrowed to the parent's rights; `asked` are the limits that its own
    definition asks for. `levels` says how many levels of subagents may follow below it and
    `width` how many at once (None: as its tools say).
    """

    session: str
    agent: AgentSpec
    source: str = ""
    format: int = FORMAT
    parent: str = ""
    parent_call: str = ""
    levels: int | None = None
    width: int | None = None
    asked: Limits | None = None


class SessionUpdated(Fact, frozen=True, tag="session.updated"):
    """The session goes on under another agent version, or under other limits."""

    by: str = ""
    agent: AgentSpec | None = None
    limits: Limits | None = None


class SessionForked(Fact, frozen=True, tag="session.forked"):
    """This session begins here with the first `at` events of `origin` as its own past.

    `unsafe` are calls that were open at `at` and left afterwards in the origin: what became of
    them there is known, so they are not simply run again here. The first `imported` of the events
    were not written by this store but brought by `imported_by`.
    """

    session: str
    origin: str
    at: int
    by: str = ""
    agent: AgentSpec | None = None
    unsafe: tuple[str, ...] = ()
    imported: int = 0
    imported_by: str = ""


class SessionRewound(Fact, frozen=True, tag="session.rewound"):
    """The session is taken back to what it was at event `to`; what came since stays readable.

    `unsafe` are calls that were open at `to` and left since.
    """

    to: int
    by: str = ""
    unsafe: tuple[str, ...] = ()


class SessionRecovered(Fact, frozen=True, tag="session.recovered"):
    """A new owner found unfinished work. Written before anything is tried again; `attempt`
    counts owners that died one after the other without any progress.
    """

    epoch: int
    attempt: int


class SessionParked(Fact, frozen=True, tag="session.parked"):
    """The session is taken out of service until a person resumes it."""

    error: ErrorInfo


class SessionClosed(Fact, frozen=True, tag="session.closed"):
    """Nothing more will happen here."""

    by: str = ""


class EnvironmentOpened(Fact, frozen=True, tag="environment.opened"):
    """A sandbox was opened; `isolation` names what was seen to be in force."""

    level: str
    isolation: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    workspace: str = ""


class EnvironmentSnapshotted(Fact, frozen=True, tag="environment.snapshotted"):
    """The workspace as it is after `call_id` (empty: at the beginning) is stored."""

    snapshot: str
    call_id: str = ""


class EnvironmentRestored(Fact, frozen=True, tag="environment.restored"):
    """The workspace was taken back to `snapshot`. `paths` names at most 50 of `count` files."""

    snapshot: str
    call_id: str = ""
    count: int = 0
    paths: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


class EnvironmentLost(Fact, frozen=True, tag="environment.lost"):
    """The sandbox could not be opened."""

    error: ErrorInfo
