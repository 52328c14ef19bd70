"""For verbs that read or decide without driving: the project's store, opened for a moment."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from perdure.app import Runtime
from perdure.cli.ids import matching
from perdure.cli.places import Places
from perdure.cli.worker import runtime_of
from perdure.config import Project, load_project
from perdure.core.errors import NotFound
from perdure.engine.session import Session

T = TypeVar("T")


class Opened:
    """A project with its runtime as a clerk: it takes letters in and works on nothing."""

    def __init__(self, project: Project, runtime: Runtime) -> None:
        self.project = project
        self.runtime = runtime
        self.places = Places(project)

    async def session(self, typed: str) -> Session:
        """Return the session that `typed` stands for."""
        return await self.runtime.session(matching(await self.runtime.sessions(), typed))


def opened(use: Callable[[Opened], Awaitable[T]]) -> T:
    """Open the project's store, use it, close it. Raises `NotFound` where there is none yet."""
    return asyncio.run(_opened(use))


async def _opened(use: Callable[[Opened], Awaitable[T]]) -> T:
    project = load_project(Path.cwd())
    path = project.store_path
    if path is not None and not path.exists():
        raise NotFound(
            "E-STORE-NONE", f"There are no sessions yet: {path} does not exist.",
            'perdure demo, or perdure run AGENT "…"; in another directory: PERDURE_STORE=sqlite:///…',
        )  # fmt: skip
    async with runtime_of(project, clerk=True) as runtime:
        return await use(Opened(project, runtime))
