"""`perdure up`: the server, in the foreground."""

import asyncio
import json as plain_json
import os
import socket
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from perdure.app import Options
from perdure.cli.agents import Overrides, load_agent, load_agents
from perdure.cli.elsewhere import only_here
from perdure.cli.firing import ref_name
from perdure.cli.places import Places
from perdure.cli.screen import Screen
from perdure.cli.whereabouts import Whereabouts, whereabouts
from perdure.config import Project, load_project
from perdure.core.errors import PerdureError
from perdure.engine.agent import Agent
from perdure.engine.runtime import Engine
from perdure.serving.first import first_key
from perdure.serving.logs import start_logging
from perdure.serving.names import check_models
from perdure.serving.server import Plan, Server
from perdure.serving.web import Web, listen
from perdure.stores.projects import DEFAULT

_SHOWN: Final = 8


@dataclass(frozen=True)
class Told:
    """What a server says when it begins. `key` is there once only, when it was just made."""

    where: Whereabouts
    store: str
    agents: Sequence[str]
    models: Mapping[str, str]
    key: str = ""
    notes: Sequence[str] = field(default_factory=list)
    metrics: bool = True
    guarantee: str = ""

    def plain(self) -> dict[str, Any]:
        """Return it for programs."""
        url = self.where.url
        return {
            "url": url,
            "native": f"{url}/api",
            "docs": f"{url}/api/docs",
            "openai": f"{url}/openai/v1",
            "metrics": f"{url}/metrics" if self.metrics else None,
            "store": self.store,
            "guarantee": self.guarantee or None,
            "agents": list(self.agents),
            "models": dict(self.models),
            "key": self.key or None,
            "notes": [*self.where.notes, *self.notes],
            "pid": os.getpid(),
        }


def up(refs: Sequence[str], *, host: str, port: int | None, json: bool, store: str = "") -> int:
    """Serve until told to stop."""
    only_here("perdure up")
    project, refs = _project(refs, store)
    screen = Screen(json=json)
    start_logging(project.settings.server.log or ("json" if json else ""))
    return asyncio.run(_serve(project, refs, host, port, screen))


def _project(refs: Sequence[str], store: str) -> tuple[Project, Sequence[str]]:
    """Return the project, which one of the arguments may name, and the agents among them."""
    found = [ref for ref in refs if _is_project(Path(ref))]
    environ = dict(os.environ) | ({"PERDURE_STORE": store} if store else {})
    if found:
        environ["PERDURE_CONFIG"] = found[-1]
    project = load_project(Path.cwd(), environ)
    rest = [ref for ref in refs if ref not in found]
    return project, rest or list(project.settings.agents)


def _is_project(path: Path) -> bool:
    """Whether a file is a project's: an agent's own file says its model or where its code is."""
    if path.suffix != ".toml" or path.name == "perdure.toml":
        return path.name == "perdure.toml"
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # whoever reads it as an agent says what is wrong with it
    return not {"model", "python"} & set(plain)


async def _serve(
    project: Project, refs: Sequence[str], host: str, port: int | None, screen: Screen
) -> int:
    settings, blobs = project.settings.server, project.settings.blobs
    settings = replace(settings, host=host or settings.host)
    check_models(settings.models)
    agents = [agent for ref in refs for agent in load_agents(ref, project)]
    Places(project).prepare()
    listener = listen(settings.host, settings.port if port is None else port)
    where = whereabouts(settings.host, listener.getsockname()[1], socket.gethostname())
    options = Options(
        model_options=project.model_options, environ=project.environ, prices=project.prices,
        bounds=project.bounds, allow_unsandboxed=project.settings.allow_unsandboxed, blobs=blobs,
    )  # fmt: skip
    try:
        plan = Plan(
            project.store_url, settings, options, agents, where.url,
            retention=project.settings.retention,
        )  # fmt: skip
        server = await Server.open(plan)
    except BaseException:
        listener.close()
        raise
    try:
        key = await first_key(server, settings.host) or ""
        notes = await _load_scheduled(project, await server.projects.engine(DEFAULT))
        notes.append(server.vault_said)
        names = [agent.name for agent in agents]
        web = Web(server, settings)
        told = Told(
            where, project.store_shown, names, settings.models, key, notes,
            settings.metrics != "off", getattr(server.stores.base, "guarantee", ""),
        )  # fmt: skip
        await server.announce(where.url)
        await web.run_on(listener, lambda: _tell(screen, told))
    finally:
        listener.close()
        await server.close()
    screen.line('{"stopped":true}' if screen.json else "  stopped; all that was begun is kept")
    return 0


async def _load_scheduled(project: Project, engine: Engine) -> list[str]:
    """Load the agents of the project's schedules; return what cannot be."""
    places, troubles = Places(project), list[str]()
    for schedule in await engine.schedules.all():
        if engine.agent(schedule.agent) is not None:
            continue
        ref = places.ref(ref_name(schedule.name))
        try:
            agent: Agent = load_agent(ref.agent if ref else schedule.agent, project, Overrides())
            await engine.register(agent)
        except PerdureError as error:
            troubles.append(f"schedule {schedule.name} does not fire: {error}")
    return troubles


def _tell(screen: Screen, told: Told) -> None:
    plain, where = told.plain(), told.where
    if screen.json:
        screen.line(plain_json.dumps(plain))
        return
    screen.line(f"  {screen.bold(where.url)}    Ctrl-C ends it; what runs is kept")
    screen.line()
    for name, what in (("native API", "native"), ("its description", "docs"), ("OpenAI", "openai")):
        screen.line(f"  {name:<16} {plain[what]}")
    screen.line(f"  {'probes':<16} {where.url}/healthz  /readyz{'  /metrics' * told.metrics}")
    screen.line(f"  {'store':<16} {told.store}")
    if told.guarantee:
        screen.line(f"  {'guarantee':<16} {told.guarantee}")
    screen.line(f"  {'agents':<16} {_listed(told.agents) or 'none'}")
    models = _listed(list(told.models))
    screen.line(f"  {'models':<16} {models or 'none: list them under [server.models]'}")
    screen.line()
    key = told.key or "KEY"
    for name, value in (
        ("OPENAI_BASE_URL", plain["openai"]), ("OPENAI_API_KEY", key),
        ("PERDURE_URL", where.native), ("PERDURE_API_KEY", key),
    ):  # fmt: skip
        screen.line(f"  export {name}={value}")
    screen.line()
    if told.key:
        screen.line("  This key is an admin's, and shown this once.")
    else:
        screen.line("  KEY: one of yours, or a new one of `perdure admin keys new`.")
    for note in plain["notes"]:
        screen.line(f"  {note}")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
