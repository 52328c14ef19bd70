"""`perdure up`: the server, in the foreground."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from perdure.app import Options
from perdure.cli.agents import Overrides, load_agent
from perdure.cli.screen import Screen
from perdure.config import Project, load_project
from perdure.engine.agent import Agent
from perdure.serving.server import Plan, Server


def up(refs: Sequence[str], *, host: str, port: int, json: bool) -> int:
    """Serve until told to stop."""
    project = load_project(Path.cwd())
    return asyncio.run(_serve(project, refs, host, port, Screen(json=json)))


async def _serve(
    project: Project, refs: Sequence[str], host: str, port: int, screen: Screen
) -> int:
    settings = project.settings.server
    agents: list[Agent] = [load_agent(ref, project, Overrides()) for ref in refs]
    options = Options(
        model_options=project.model_options, environ=project.environ, prices=project.prices,
        allow_unsandboxed=project.settings.allow_unsandboxed,
    )  # fmt: skip
    host, port = host or settings.host, port or settings.port
    plan = Plan(project.store_url, settings, options, agents, f"http://{host}:{port}")
    server = await Server.open(plan)
    try:
        config = uvicorn.Config(server.app, host, port, log_level="warning", lifespan="off")
        screen.line(f"  http://{host}:{port}")
        await uvicorn.Server(config).serve()
    finally:
        await server.close()
    return 0
