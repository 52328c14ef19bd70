"""Where an operator sits: the store itself, with all of its projects, and what lies beside it."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from perdure.app import open_store
from perdure.cli.places import Places
from perdure.config import Project, load_project
from perdure.core.errors import InvalidRequest, NotFound
from perdure.doors.principals import Keys
from perdure.environments.homes import discard
from perdure.environments.roots import homes_of
from perdure.stores.carrying.reading import CarriableStore, carriable
from perdure.stores.postgres.address import is_postgres, parse
from perdure.stores.projects import DEFAULT, ProjectStores
from perdure.stores.system import RandomIds, SystemClock

T = TypeVar("T")


class Desk:
    """The store of a project's directory, opened."""

    def __init__(self, project: Project, stores: ProjectStores, work: Path) -> None:
        self.project = project
        self.stores = stores
        self.work = work
        self.clock = SystemClock()
        self.keys = Keys(stores.base, self.clock, RandomIds(), os.urandom)

    def forget(self, session: str, project: str) -> None:
        """Remove what lies beside the store of a session that is gone: workspace, logs."""
        below = "" if project == DEFAULT else f"projects/{project}"
        for folder in homes_of(self.work, below, session):
            discard(folder)
        if project == DEFAULT:
            Places(self.project).forget(session)


def at_desk(use: Callable[[Desk], Awaitable[T]]) -> T:
    """Open the store, which is made if there is none, use it, close it."""
    return asyncio.run(_used(use))


def store_here(project: Project, verb: str = "This") -> str:
    """Return the address of the project's own store. Raises `InvalidRequest` (E-ADMIN-STORE)."""
    url = project.store_url
    if project.remote or url == "memory:":
        raise InvalidRequest(
            "E-ADMIN-STORE",
            f"{verb} is done in the store itself; {url} cannot be opened here.",
            'Type it where the server\'s store is: store = "sqlite:///…" in perdure.toml.',
        )
    return url


def check_there(url: str) -> None:
    """Raise `NotFound` (E-STORE-NONE) for a file that would only be made by opening it."""
    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not path.exists():
        raise NotFound("E-STORE-NONE", f"There is no store: {path} does not exist.")


async def opened_at(url: str, blobs: str, *, half: bool = False) -> tuple[CarriableStore, Path]:
    """Open a store to be copied or filled, with the directory that belongs to it. Where `blobs`
    does not say where its payloads are, they are where the project has them if it is its store.
    """
    settings = load_project(Path.cwd())
    own = whole_url(settings.store_url) == whole_url(url)
    store, work = await open_store(url, blobs or settings.settings.blobs * own, half=half)
    try:
        return carriable(store), work
    except InvalidRequest:
        await store.close()
        raise


def whole_url(url: str) -> str:
    """Return the address of a store so that it says the same in every directory."""
    file = url.removeprefix("sqlite:///")
    return url if file == url else f"sqlite:///{Path(file).resolve()}"


def shown_url(url: str) -> str:
    """Return a store's address for people and logs: without a password."""
    return parse(url).shown if is_postgres(url) else url


async def _used(use: Callable[[Desk], Awaitable[T]]) -> T:
    project = load_project(Path.cwd())
    url = store_here(project)
    Places(project).prepare()
    store, work = await open_store(url, project.settings.blobs)
    stores = ProjectStores(store)
    try:
        return await use(Desk(project, stores, work))
    finally:
        await stores.close()
