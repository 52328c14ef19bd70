"""Where sessions of the Agents API work: from what a client asks for to a workspace that is ready.

A hosted environment is prepared before its session begins: files are written, packages installed
and setup commands run in the sandbox, once, and the workspace is stored as a snapshot. The
session's journal begins with that snapshot, so that it is there after any crash, and in every fork.
When the preparation fails the environment has failed, and so has the session that was to work in
it: it is there, parked, and says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from perdure.core import events as e
from perdure.core.agent import EnvironmentSpec
from perdure.core.errors import ErrorInfo, InvalidRequest, error_info
from perdure.doors.credentials import active, placeholders
from perdure.doors.documents import Documents
from perdure.doors.openai.agents.capabilities import files_of
from perdure.doors.openai.agents.hosting import (
    GivenFile,
    Hosting,
    absolute,
    read_hosting,
)
from perdure.doors.openai.agents.setting_up import SetupFailed, set_up
from perdure.doors.openai.files import KIND as UPLOAD, FileRecord
from perdure.doors.openai.problems import Wording
from perdure.doors.services import Services
from perdure.engine.runtime import Engine
from perdure.ports.sandbox import Sandbox
from perdure.ports.store import Store

Json = dict[str, Any]

ENVIRONMENT: Final = "openai.environment"
TEMPLATE: Final = "openai.environment-template"


class EnvironmentRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An environment that was prepared. `snapshot` is its workspace before any session worked in
    it; `session` the one that it was given to; `failed` why there is none. Times in seconds.
    """

    id: str
    created_at: int
    hosting: Hosting
    snapshot: str = ""
    session: str = ""
    failed: ErrorInfo | None = None


class TemplateRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A configuration to make environments from. Times in seconds."""

    id: str
    created_at: int
    updated_at: int
    hosting: Hosting
    name: str | None = None


@dataclass(frozen=True)
class Prepared:
    """Where a session is to work: `spec` for its agent, `shown` for those who read the session,
    and `first`, the events that its journal begins with behind session.created.
    """

    spec: EnvironmentSpec
    shown: Json
    first: tuple[e.Payload, ...] = ()


NOWHERE: Final = Prepared(EnvironmentSpec(), {"type": "none"})


def environments(store: Store) -> Documents[EnvironmentRecord]:
    """Return the environments of a project."""
    return Documents(store, ENVIRONMENT, EnvironmentRecord)


def templates(store: Store) -> Documents[TemplateRecord]:
    """Return the templates of a project."""
    return Documents(store, TEMPLATE, TemplateRecord)


class Host:
    """Prepares the environments of one project."""

    def __init__(self, engine: Engine, services: Services) -> None:
        self._engine = engine
        self._services = services
        self._store = engine.kit.store
        self._kind = services.settings.environment

    async def environment_spec(
        self, given: object, session: str, vault_ids: tuple[str, ...] = ()
    ) -> Prepared:
        """Prepare what a new session's `environment` asks for. `session` is its id to be.

        Raises `Wording` (400, 404) for what cannot be had, `Unavailable` when no sandbox can be
        started. What fails in it makes a session that has failed.
        """
        if not isinstance(given, Mapping):
            raise Wording(400, "A session needs an environment.", param="environment")
        await active(self._store, vault_ids)
        match given.get("type"):
            case "none":
                return NOWHERE
            case "self_hosted":
                said = "Self-hosted environments are not available on this server yet."
                raise Wording(400, said, param="environment.type")
            case "openai_hosted" if given.get("environment_id"):
                return await self._attached(given, session)
            case "openai_hosted":
                hosting = await self.hosting(given)
                made = await self.prepare(hosting, session, vault_ids, session=session)
                return self._prepared(made)
            case kind:
                said = f"There is no environment of type {kind!r}."
                raise Wording(400, said, param="environment.type")

    async def hosting(self, given: Mapping[str, Any]) -> Hosting:
        """Return what is asked for, over its template, with the contents of files stored."""
        base = None
        if given.get("environment_template_id"):
            name = str(given["environment_template_id"])
            template = await templates(self._store).find(name)
            if template is None:
                raise Wording(404, f"No environment template found with id '{name}'.")
            base = template.hosting
        return await self.read(given, base)

    async def read(self, given: Mapping[str, Any], base: Hosting | None = None) -> Hosting:
        """Return what is asked for, with the contents of inline files in the store."""
        hosting, contents = read_hosting(given, base)
        if base is not None:
            _no_broader(hosting, base)
        files = [
            msgspec.structs.replace(file, blob=await self._store.blobs.put(contents[file.path]))
            if file.path in contents
            else file
            for file in hosting.files
        ]
        capabilities = [
            msgspec.structs.replace(each, blob=await self._store.blobs.put(contents[each.folder]))
            if each.folder in contents
            else each
            for each in hosting.capabilities
        ]
        return msgspec.structs.replace(
            hosting, files=tuple(files), capabilities=tuple(capabilities)
        )

    async def prepare(
        self,
        hosting: Hosting,
        home: str,
        vault_ids: tuple[str, ...],
        *,
        session: str = "",
        name: str = "",
    ) -> EnvironmentRecord:
        """Make an environment in the home of that name, and keep its record. Raises like
        `environment_spec`.
        """
        hidden = await placeholders(self._store, vault_ids)
        files = tuple([await self._sized(file) for file in hosting.files])
        hosting = msgspec.structs.replace(hosting, files=files)
        sandbox = await self._open(home, hosting.spec(self._kind))
        snapshot, failed = "", None
        try:
            await self._fill(sandbox, hosting)
            await set_up(sandbox, hosting, {**hosting.env, **hidden})
            snapshot = await sandbox.snapshot()
        except SetupFailed as error:
            failed = error_info(error.code, "environment", error.message, hint=error.hint)
        finally:
            await sandbox.close()
        record = EnvironmentRecord(
            id=name or self._services.new_id("env_").lower(),
            created_at=self._services.seconds(),
            hosting=hosting,
            snapshot=snapshot,
            session=session,
            failed=failed,
        )
        await environments(self._store).put(record.id, record)
        return record

    async def write(self, record: EnvironmentRecord, file: GivenFile, content: bytes) -> None:
        """Put one more file into an environment that no session works in yet."""
        sandbox = await self._open(record.id, record.hosting.spec(self._kind))
        try:
            await sandbox.files.write(file.path, content)
            snapshot = await sandbox.snapshot()
        finally:
            await sandbox.close()
        docs = environments(self._store)
        now, version = await docs.versioned(record.id)
        kept = tuple(each for each in now.hosting.files if each.path != file.path)
        hosting = msgspec.structs.replace(now.hosting, files=(*kept, file))
        changed = msgspec.structs.replace(now, hosting=hosting, snapshot=snapshot)
        await docs.put(record.id, changed, expect=version)

    async def content(self, file: GivenFile) -> bytes:
        """Return a file's content. Raises `Wording` (400) for an upload that is not there."""
        if file.blob:
            return await self._store.blobs.get(file.blob)
        upload = await Documents(self._store, UPLOAD, FileRecord).find(file.file_id)
        now = self._services.seconds()
        if upload is None or (upload.expires_at is not None and upload.expires_at <= now):
            raise Wording(400, f"No file found with id '{file.file_id}'.", param="files")
        return await self._store.blobs.get(upload.digest)

    async def _sized(self, file: GivenFile) -> GivenFile:
        if file.blob:
            return file
        content = await self.content(file)
        blob = await self._store.blobs.put(content)  # as it is now, whatever becomes of the upload
        return msgspec.structs.replace(file, blob=blob, size_bytes=len(content))

    async def _attached(self, given: Mapping[str, Any], session: str) -> Prepared:
        if set(given) - {"type", "environment_id"}:
            said = "environment_id cannot be combined with other settings."
            raise Wording(400, said, param="environment.environment_id")
        name = str(given["environment_id"])
        docs = environments(self._store)
        if await docs.find(name) is None:
            raise Wording(404, f"No environment found with id '{name}'.")
        record, version = await docs.versioned(name)
        if record.session not in ("", session):
            said = f"Environment {name} belongs to another session."
            raise Wording(400, said, param="environment.environment_id")
        if record.failed is not None:
            said = f"Environment {name} has failed: {record.failed.message}"
            raise Wording(400, said, param="environment.environment_id")
        record = msgspec.structs.replace(record, session=session)
        await docs.put(name, record, expect=version)
        return self._prepared(record)

    def _prepared(self, record: EnvironmentRecord) -> Prepared:
        shown = {
            "type": "openai_hosted",
            "id": record.id,
            "container_size": record.hosting.container_size,
            "files": files_json(record),
            **record.hosting.shown(),
        }
        if record.failed is not None:
            parked = (e.SessionParked(record.failed),)
            return Prepared(record.hosting.spec(self._kind), shown, parked)
        first: tuple[e.Payload, ...] = (e.EnvironmentSnapshotted(record.snapshot),)
        if count := len(record.hosting.setup_commands):
            first = (e.NoteRecorded(f"The workspace was set up by {count} commands."), *first)
        return Prepared(record.hosting.spec(self._kind), shown, first)

    async def _open(self, home: str, spec: EnvironmentSpec) -> Sandbox:
        kinds = self._engine.kit.environments
        if spec.kind not in kinds:
            raise InvalidRequest(
                "E-NO-ENVIRONMENT",
                f"This server has no environment {spec.kind!r}.",
                "[server] environment",
            )
        return await kinds[spec.kind].open(home, spec, "")

    async def _fill(self, sandbox: Sandbox, hosting: Hosting) -> None:
        for file in hosting.files:
            await sandbox.files.write(file.path, await self.content(file))
        for each in hosting.capabilities:
            for path, content in files_of(await self._store.blobs.get(each.blob)).items():
                await sandbox.files.write(f"{each.folder}/{path}", content)


def files_json(record: EnvironmentRecord) -> list[Json]:
    """Return the files that an environment began with, without their contents."""
    found: list[Json] = []
    for number, file in enumerate(record.hosting.files):
        kind = {"type": "file_id", "file_id": file.file_id} if file.file_id else {"type": "inline"}
        place = {"path": absolute(file.path), "size_bytes": file.size_bytes}
        found.append({"id": f"{record.id}_file_{number}", **kind, **place})
    return found


def _no_broader(asked: Hosting, template: Hosting) -> None:
    """Refuse an override of the network by which more could be reached than by the template."""
    if asked.network() == template.network() or not asked.network():
        return
    if template.network() == ("*",):
        return
    if "*" in asked.network() or not set(asked.network()) <= set(template.network()):
        said = "network reaches further than the environment template allows."
        raise Wording(400, said, param="network")
