"""What is kept of a response beside its session's journal."""

from typing import Any, Final

import msgspec

from perdure.doors.openai.tools import Shown

KIND: Final = "openai.response"


class ResponseRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A response: the events of `session` after `after`, up to the end of the turn they belong to.

    `request` is what the client sent, as far as it is echoed. `inputs` are its input items with
    the ids they got. `final` is the finished response once somebody has seen it finish; before
    that it is read off the journal each time. One that the client does not want `stored` is kept
    only until then. `shown` says how tools look to the client, by our names for them; `listings`
    are the lists of MCP servers' tools that it begins with, `labels` all servers whose lists the
    conversation holds. Times in seconds.
    """

    id: str
    session: str
    after: int
    created_at: int
    model: str
    request: dict[str, Any]
    inputs: list[dict[str, Any]] = []
    background: bool = False
    conversation: str = ""
    previous: str = ""
    final: dict[str, Any] | None = None
    until: int = 0  # the seq of the event that ended it; 0 while nobody has seen it
    stored: bool = True
    shown: dict[str, Shown] = {}
    listings: list[dict[str, Any]] = []
    labels: list[str] = []
