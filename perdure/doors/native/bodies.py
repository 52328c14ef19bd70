"""What is sent and answered below /api, beside what the engine's own structs say.

Times are microseconds since the epoch, money is millionths of a US dollar.
"""

from typing import Any, Literal

import msgspec

from perdure.core.agent import AgentSpec, Limits
from perdure.core.content import Content, ContextItem
from perdure.core.errors import ErrorInfo
from perdure.core.events import Event
from perdure.core.grants import Grant
from perdure.core.schedules import Missed, Overlap, Run, Schedule
from perdure.core.state import ActionState, State
from perdure.engine.grants import Scope
from perdure.engine.redrive import ErrorGroup, Occurrence, Planned
from perdure.ports.store import SessionRow


class Problem(msgspec.Struct, frozen=True):
    """What went wrong. `code` is one of the E-codes of the manual, `hint` says what to do,
    `retryable` whether the same request may succeed later.
    """

    code: str
    message: str
    hint: str = ""
    retryable: bool = False


class Failure(msgspec.Struct, frozen=True):
    """The body of every answer that is no success."""

    error: Problem


class Row(SessionRow, frozen=True, omit_defaults=False):
    """A session as lists show it, every field written. `wake_at_us` is when something is due in it
    by itself (0: never).
    """


def row(of: SessionRow) -> Row:
    """Return a session's row with every field written."""
    return Row(**msgspec.structs.asdict(of))


class SessionPage(msgspec.Struct, frozen=True):
    """Sessions, last updated first. `next` is the cursor of the next page, empty at the end."""

    sessions: list[Row]
    next: str = ""


class SessionView(msgspec.Struct, frozen=True):
    """A session: its row in the list, and what its events fold to."""

    row: Row
    state: State


class Opened(msgspec.Struct, frozen=True):
    """A session that is there now; `created` says that it was not before."""

    row: Row
    created: bool


class Create(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A session to be opened: made unless there is one of that `id`.

    `agent` is registered on the server. `model` is one of the server's names for its models,
    `limits` replace the agent's; both hold for a session that is made. `source` is a directory of
    the server's, for admins. `adopt` moves a session that is there to the agent as it is defined
    now; without it another definition is a conflict (E-CODE-DRIFT). `message` is its first input.
    """

    agent: str
    id: str = ""
    model: str = ""
    limits: Limits | None = None
    source: str = ""
    adopt: bool = False
    message: str = ""
    by: str = ""


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Other limits for a session."""

    limits: Limits
    by: str = ""


class EventPage(msgspec.Struct, frozen=True):
    """Events in order. `next` is what to send as `after` for those that follow."""

    events: list[Event]
    next: int


class Transcript(msgspec.Struct, frozen=True):
    """What the model reads."""

    items: list[ContextItem]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something to do, or with `steer` a word for the turn that runs: a `text`, or parts as
    `content`. The same `key` sends it once.
    """

    text: str = ""
    content: Content = ()
    key: str = ""
    by: str = ""


class By(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who asks, beside the key's own name."""

    by: str = ""


class Posted(msgspec.Struct, frozen=True):
    """A letter is durably in the inbox. `fresh` is false when its key was posted before."""

    fresh: bool


class Rewound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Back to event `to`."""

    to: int
    by: str = ""


class Fork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fork at event `at` (none: now) under `name` (none: a fresh id), with the definition of a
    registered `agent`, or with another `model` of the server's. With `edit` it begins
    before the last message there, which says this instead.
    """

    at: int | None = None
    name: str = ""
    agent: str = ""
    model: str = ""
    edit: Content | None = None
    by: str = ""


class Tell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An event outside. `data` is a text or any JSON. The same `key` tells it once."""

    name: str
    data: Any = ""
    key: str = ""
    by: str = ""


class AnswerCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of a call that was left to a client; with `failed` why there is none."""

    result: Any = ""
    failed: bool = False
    by: str = ""


class DecideAction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A decision. `allow` and `deny` are for approvals; `done` (with `result`), `failed` and
    `rerun` for calls whose outcome is unknown.

    `seen` is the digest of what the decider was shown. `arguments` (JSON text) replace those of
    the call. With `scope` session or rule calls like it are allowed too, those that fit `when`,
    until `until_us`.
    """

    decision: Literal["allow", "deny", "done", "failed", "rerun"]
    seen: str = ""
    reason: str = ""
    arguments: str | None = None
    result: str | None = None
    scope: Scope = "once"
    when: str = ""
    until_us: int | None = None
    by: str = ""


class OpenAction(msgspec.Struct, frozen=True):
    """What a person or a client owes a session, with the call that it is about."""

    session: str
    agent: str
    action: ActionState
    tool: str
    arguments: str
    reason: str = ""
    answer_schema: str = ""


class Actions(msgspec.Struct, frozen=True):
    """What waits, over all sessions."""

    actions: list[OpenAction]


class Rules(msgspec.Struct, frozen=True):
    """What is allowed beyond single sessions."""

    rules: list[Grant]


class PlanSchedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A schedule: a `cron` expression in the zone `tz`, or once, at `at_us`. Every run goes into
    `session`, or has one of its own that begins with a copy of `source` (for admins).
    """

    name: str
    agent: str
    prompt: str = ""
    content: Content = ()
    cron: str = ""
    at_us: int | None = None
    tz: str = "UTC"
    session: str = ""
    source: str = ""
    missed: Missed = "last"
    overlap: Overlap | None = None
    ends_us: int | None = None
    by: str = ""


class Plans(msgspec.Struct, frozen=True):
    """All schedules, by name."""

    schedules: list[Schedule]


class PastRun(msgspec.Struct, frozen=True):
    """A run, and its session now: none when it is gone."""

    run: Run
    row: SessionRow | None


class PlanView(msgspec.Struct, frozen=True):
    """A schedule with its last runs, newest first."""

    schedule: Schedule
    runs: list[PastRun]


class Ran(msgspec.Struct, frozen=True):
    """The session that a run goes into."""

    session: str


class Causes(msgspec.Struct, frozen=True):
    """Errors over all sessions, by cause."""

    errors: list[ErrorGroup]


class Cause(msgspec.Struct, frozen=True):
    """One cause: where it occurred, and its last occurrence in full."""

    group: ErrorGroup
    occurrences: list[Occurrence]
    error: ErrorInfo | None


class RedrivePlan(msgspec.Struct, frozen=True):
    """What moving on each session that waits for a cause would do."""

    plan: list[Planned]


class Redrive(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Move on what waits for a cause: all of it, or the sessions in `only`, at most `rate_per_s`
    a second. `dry_run` only says what that would do.
    """

    rate_per_s: float = 1.0
    only: list[str] | None = None
    dry_run: bool = False
    by: str = ""


class RedriveLine(msgspec.Struct, frozen=True):
    """What was done about a session, or with the `outcome` planned would be."""

    plan: Planned
    outcome: str
    why: str = ""


class Replayed(msgspec.Struct, frozen=True):
    """Whether going through a session again decides the same, and where not."""

    session: str
    events: int
    identical: bool
    seq: int | None = None
    difference: str = ""


class FileChange(msgspec.Struct, frozen=True):
    """A path that differs between two snapshots; contents as base64, none where too big."""

    path: str
    kind: str
    before: bytes | None
    after: bytes | None


class FileChanges(msgspec.Struct, frozen=True):
    """What differs between two snapshots of a session."""

    changes: list[FileChange]


class Used(msgspec.Struct, frozen=True):
    """What model calls took. `unpriced` counts calls whose price nobody knew."""

    agent: str
    model: str
    day: str
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    micro_usd: int = 0
    unpriced: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Use by agent, model and day (UTC), of sessions that changed since `since_us`."""

    since_us: int
    used: list[Used]


class Agents(msgspec.Struct, frozen=True):
    """The agents that are registered on the server, as they are defined now."""

    agents: list[AgentSpec]


class Info(msgspec.Struct, frozen=True):
    """The server and you: who your key says you are, what there is."""

    version: str
    principal: str
    project: str
    role: str
    agents: list[str]
    models: list[str]
    sessions: int
