"""Rules and schedules: what holds for more than one session."""

from typing import Final

from msgspec.structs import replace
from starlette.responses import Response

from perdure.core.schedules import Schedule
from perdure.doors.http import Call
from perdure.doors.native.acting import BY, content_of
from perdure.doors.native.bodies import PastRun, Plans, PlanSchedule, PlanView, Ran, Rules
from perdure.doors.native.making import admin_only, definition
from perdure.doors.native.table import Operation, answer, by_of
from perdure.engine.calendar import Terms, plan


async def rules(call: Call) -> Response:
    """List what is allowed beyond single sessions."""
    return answer(Rules(await call.engine.rules()))


async def revoke_rule(call: Call) -> Response:
    """Take a rule out of force, everywhere at once."""
    await call.engine.revoke_rule(call.path["name"], by=by_of(call, call.query.get("by", "")))
    return Response(status_code=204)


async def schedules(call: Call) -> Response:
    """List the schedules."""
    return answer(Plans(await call.engine.schedules.all()))


async def add(call: Call) -> Response:
    """Let an agent run by itself. The same plan again changes nothing."""
    body = await call.read(PlanSchedule)
    definition(call.engine, body.agent)
    source = admin_only(call, body.source)
    terms: Terms = {
        "cron": body.cron, "tz": body.tz, "session": body.session, "missed": body.missed,
        "overlap": body.overlap, "by": by_of(call, body.by),
    }  # fmt: skip
    content = content_of(body.prompt, body.content)
    made = plan(body.name, body.agent, content, source, terms)
    made = replace(made, at_us=body.at_us, ends_us=body.ends_us)
    return answer(await call.engine.schedules.add(made), 201)


async def show(call: Call) -> Response:
    """Show a schedule with its last runs."""
    name = call.path["name"]
    plans = call.engine.schedules
    runs = [PastRun(past.run, past.row) for past in await plans.history(name)]
    return answer(PlanView(await plans.get(name), runs))


async def remove(call: Call) -> Response:
    """Forget a schedule; its sessions stay."""
    await call.engine.schedules.remove(call.path["name"])
    return Response(status_code=204)


async def pause(call: Call) -> Response:
    """Let a schedule fire no more until it is resumed."""
    return answer(await call.engine.schedules.pause(call.path["name"]))


async def resume(call: Call) -> Response:
    """Let a schedule go on with its next fire time after now."""
    return answer(await call.engine.schedules.resume(call.path["name"]))


async def run_now(call: Call) -> Response:
    """Run a schedule once outside its plan."""
    return answer(Ran(await call.engine.schedules.run_now(call.path["name"])), 202)


OPERATIONS: Final = (
    Operation("GET", "/rules", rules, "viewer", "list_rules", "actions", result=Rules),
    Operation("DELETE", "/rules/{name}", revoke_rule, "operator", "revoke_rule", "actions",
              status=204, query=(BY,)),
    Operation("GET", "/schedules", schedules, "viewer", "list_schedules", "schedules",
              result=Plans),
    Operation("POST", "/schedules", add, "operator", "add_schedule", "schedules",
              body=PlanSchedule, result=Schedule, status=201),
    Operation("GET", "/schedules/{name}", show, "viewer", "get_schedule", "schedules",
              result=PlanView),
    Operation("DELETE", "/schedules/{name}", remove, "operator", "remove_schedule", "schedules",
              status=204),
    Operation("POST", "/schedules/{name}/pause", pause, "operator", "pause_schedule",
              "schedules", result=Schedule),
    Operation("POST", "/schedules/{name}/resume", resume, "operator", "resume_schedule",
              "schedules", result=Schedule),
    Operation("POST", "/schedules/{name}/now", run_now, "operator", "run_schedule",
              "schedules", result=Ran, status=202),
)  # fmt: skip
