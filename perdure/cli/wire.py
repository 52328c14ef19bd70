"""What a command line and its worker say to each other, one JSON object per line.

Down (the worker's standard input): one `Order`, then a `Letter` whenever there is one; the end of
the input means that nobody looks on any more. Up (a pipe): `Said` lines and events as journaled.
"""

from typing import Any, Final

import msgspec

from perdure.core.codec import decode, encode
from perdure.core.content import ToolCall
from perdure.core.errors import ErrorInfo
from perdure.core.events import ActionKind, Event
from perdure.core.grants import Grant
from perdure.core.inbox import Answer, Decide, Say, Update
from perdure.core.state import Spent
from perdure.engine.hub import Live

FROM_NOW: Final = -1
_LIVE: Final = b'{"live":'


class Letter(msgspec.Struct, frozen=True, tag="letter", omit_defaults=True):
    """Something for the session's inbox, under a key that makes it arrive once."""

    key: str
    post: Say | Decide | Update | Answer


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which session to drive, with which agent, and where in the journal the listener is
    (`FROM_NOW`: wherever the journal ends; of a session that is made, all is told).

    `project` is the directory whose configuration holds.
    `create` says that the session may be made; `workspace` is what it then begins with.
    """

    session: str
    agent: str
    project: str = "."
    model: str = ""
    in_place: bool = False
    unsandboxed: bool = False
    limits: tuple[str, ...] = ()
    workspace: str = ""
    create: bool = False
    adopt: bool = False
    after: int = FROM_NOW
    letters: tuple[Letter, ...] = ()


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a person owes the session, with the call it is about. `form` is what an answer must
    look like, as JSON Schema, `said` what the model wrote when it made the call,
    `grant` what would allow all calls of this tool for the session, `takes` what the tool takes, as
    JSON Schema, where its arguments may be edited.
    """

    action_id: str
    kind: ActionKind
    call: ToolCall
    question: str
    digest: str = ""
    reason: str = ""
    expires_at_us: int | None = None
    form: str = ""
    said: str = ""
    grant: Grant | None = None
    takes: str = ""


class Ready(msgspec.Struct, frozen=True, omit_defaults=True):
    """The worker has the session and its agent."""

    pid: int
    session: str
    agent: str
    version: str
    model: str
    seq: int
    after: int
    environment: str = ""
    source: str = ""
    in_place: bool = False
    priced: bool = False
    limit_usd: float | None = None
    spent: Spent = Spent()
    calls: tuple[ToolCall, ...] = ()
    asked: tuple[Asked, ...] = ()


class Still(msgspec.Struct, frozen=True, omit_defaults=True):
    """Nothing is due until somebody says something: where the session stands.

    `below` are subagents that wait for a person. One that sleeps does so `until_us` (None: as long
    as it takes), or until one of `events` comes.
    """

    status: str
    seq: int
    asked: tuple[Asked, ...] = ()
    error: ErrorInfo | None = None
    spent: Spent = Spent()
    last_status: str = ""
    changed: bool = False
    below: tuple[str, ...] = ()
    until_us: int | None = None
    events: tuple[str, ...] = ()


class Trouble(msgspec.Struct, frozen=True, omit_defaults=True):
    """The worker cannot go on."""

    code: str
    message: str
    hint: str = ""
    status: int = 1


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line up: exactly one of these."""

    ready: Ready | None = None
    posted: str = ""
    still: Still | None = None
    error: Trouble | None = None


def up(item: Event | Live | Said) -> bytes:
    """Return a line."""
    if isinstance(item, Live):
        return _LIVE + encode(item.piece) + b"}\n"
    return encode(item) + b"\n"


def heard(line: bytes) -> Event | Live | Said:
    """Read a line. Raises `msgspec.MsgspecError` for what no worker says."""
    if line.startswith(b'{"seq":'):
        return decode(line, Event)
    if line.startswith(_LIVE):
        return decode(b'{"piece":' + line.removeprefix(_LIVE), Live)
    return decode(line, Said)


def plain(item: Any) -> Any:
    """Return a value as JSON knows it."""
    return msgspec.json.decode(encode(item))
