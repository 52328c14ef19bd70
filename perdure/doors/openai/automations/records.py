"""What is kept of automations and of their invocations, and what follows from it. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from perdure.core import schedules as plan
from perdure.core.content import as_content
from perdure.core.errors import InvalidRequest
from perdure.core.schedules import Fire, Schedule
from perdure.doors.documents import Documents
from perdure.doors.openai.problems import Wording
from perdure.engine.calendar import following_of
from perdure.ports.store import Store

Json = dict[str, Any]
Status = Literal["queued", "completed", "failed", "skipped"]

AUTOMATION: Final = "openai.automation"
INVOCATION: Final = "openai.automation-invocation"
_US: Final = 1_000_000


class AutomationRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An automation. `schedule` is when it fires and how far it has come; its agent and prompt say
    nothing here, `target` does. `created_at` in seconds.
    """

    id: str
    created_at: int
    name: str
    schedule: Schedule
    target: Json
    metadata: dict[str, str] = {}
    pause_reason: str = ""

    @property
    def status(self) -> str:
        """active, paused or (of one that runs once) completed."""
        if self.schedule.at_us is not None and self.schedule.next_us is None:
            return "completed"
        return "paused" if self.schedule.paused else "active"


class InvocationRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One delivery. `automation` is the automation as it was shown then, of one by the clock.
    Times in seconds.
    """

    id: str
    automation_id: str
    created_at: int
    scheduled_at: int | None = None
    status: Status = "queued"
    session_id: str = ""
    error: dict[str, str] | None = None
    automation: Json | None = None

    @property
    def key(self) -> str:
        """The name of its document: those of one automation lie together, the oldest first."""
        return f"{self.automation_id}/{self.id}"


def automations(store: Store) -> Documents[AutomationRecord]:
    """Return the automations of a project."""
    return Documents(store, AUTOMATION, AutomationRecord)


def invocations(store: Store) -> Documents[InvocationRecord]:
    """Return the invocations of a project's automations."""
    return Documents(store, INVOCATION, InvocationRecord)


def invocation_id(automation: str, fire: Fire) -> str:
    """Return the id of a fire time's invocation: the same in whatever process, sorting by time."""
    digest = hashlib.sha256(f"{automation}\0{fire.by_hand}".encode()).hexdigest()[:12]
    return f"autoinv_{fire.at_us:016x}{digest}"


def scheduled(body: Mapping[str, Any], name: str, now_us: int) -> Schedule:
    """Return the schedule that a client asks for. Raises `Wording` (400)."""
    kind = body.get("type")
    common = {"agent": "openai-agent", "prompt": as_content("-"), "overlap": "queue"}
    match kind:
        case "periodic":
            cron, tz = body.get("expression"), body.get("timezone")
            if not isinstance(cron, str) or not cron.strip():
                raise Wording(400, "expression is a cron expression.", param="expression")
            if not isinstance(tz, str) or not tz:
                raise Wording(400, "timezone is the name of a time zone.", param="timezone")
            made = Schedule(name=name, cron=cron.strip(), tz=tz, made_at_us=now_us, **common)  # type: ignore[arg-type]
        case "once":
            made = Schedule(name=name, at_us=moment_us(body), made_at_us=now_us, **common)  # type: ignore[arg-type]
        case _:
            raise Wording(400, "type is periodic or once.", param="type")
    return begun(made, now_us)


def begun(schedule: Schedule, now_us: int) -> Schedule:
    """Return a schedule with its first fire time from now on. Raises `Wording` (400)."""
    try:
        following = following_of(plan.checked(schedule))
        next_us = following(now_us) if schedule.cron else schedule.at_us
    except InvalidRequest as error:
        param = "timezone" if error.code == "E-SCHEDULE-TZ" else "expression"
        raise Wording(400, f"{error.message} {error.hint}".strip(), param=param) from error
    if next_us is None:
        raise Wording(400, "This expression names no time that comes.", param="expression")
    return replace(schedule, next_us=next_us)


def moment_us(body: Mapping[str, Any]) -> int:
    """Return `run_at` in microseconds. Raises `Wording` (400)."""
    run_at = body.get("run_at")
    if not isinstance(run_at, int) or isinstance(run_at, bool) or not 0 <= run_at < 10**11:
        raise Wording(400, "run_at is a time in seconds since the epoch.", param="run_at")
    return run_at * _US


def automation_json(record: AutomationRecord) -> Json:
    """Return an automation as it is read."""
    about: Json = {
        "id": record.id,
        "object": "agent.automation",
        "created_at": record.created_at,
        "created_by": {"type": "developer"},
        "metadata": record.metadata,
        "name": record.name,
        "status": record.status,
        "pause_reason": record.pause_reason or None,
        "target": record.target["shown"],
    }
    schedule = record.schedule
    if schedule.at_us is not None:
        return {**about, "type": "once", "run_at": schedule.at_us // _US}
    return {**about, "type": "periodic", "expression": schedule.cron, "timezone": schedule.tz}


def invocation_json(record: InvocationRecord) -> Json:
    """Return an invocation as it is read."""
    manual = record.automation is None
    source = (
        {"type": "manual"} if manual else {"type": "automation", "automation": record.automation}
    )
    return {
        "id": record.id,
        "object": "agent.automation.invocation",
        "automation_id": record.automation_id,
        "created_at": record.created_at,
        "scheduled_at": record.scheduled_at,
        "status": record.status,
        "skip_reason": "pending_delivery" if record.status == "skipped" else None,
        "session_id": record.session_id or None,
        "error": record.error,
        "source": source,
    }
