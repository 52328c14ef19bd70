"""What every face is handed: the projects, time and ids, settings, the log."""

import fnmatch
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from perdure.core.errors import InvalidRequest
from perdure.doors.limits import Limits
from perdure.doors.projects import Projects
from perdure.doors.settings import ServerSettings
from perdure.doors.toolmaker import Toolmaker
from perdure.doors.turns import OneAtATime
from perdure.ports.clock import Clock, Ids
from perdure.ports.cluster import Cluster
from perdure.ports.sandbox import Change
from perdure.ports.vault import Vault

_LOG: Final = logging.getLogger("perdure.server")


def no_tools(project: str) -> Toolmaker:
    """Refuse: for services without API agents."""
    raise InvalidRequest("E-TOOLS", f"No tools can be made in project {project}.")


async def no_files(project: str, first: str, last: str) -> Sequence[Change]:
    """Refuse: for services without workspaces."""
    raise InvalidRequest("E-WORKSPACE-NONE", "This server keeps no workspaces.")


def no_vault(project: str) -> Vault:
    """Refuse: for services without secrets."""
    raise InvalidRequest("E-VAULT-KEY", "This server has no vault key.", "PERDURE_VAULT_KEY")


@dataclass(frozen=True)
class Services:
    """The collaborators of all doors. `changes` compares two snapshots of a project; `about` says
    what this process is: its version, the kind of its store. `cluster` knows the other nodes of the
    store, None where it has none.
    """

    projects: Projects
    clock: Clock
    ids: Ids
    settings: ServerSettings = field(default_factory=ServerSettings)
    url: str = ""
    tools: Callable[[str], Toolmaker] = no_tools  # of a project
    vault: Callable[[str], Vault] = no_vault  # of a project
    changes: Callable[[str, str, str], Awaitable[Sequence[Change]]] = no_files
    about: Mapping[str, str] = field(default_factory=dict)
    cluster: Cluster | None = None

    @cached_property
    def limits(self) -> Limits:
        """What is counted of all that is asked for here."""
        return Limits(self.settings, self.clock)

    @cached_property
    def turns(self) -> OneAtATime:
        """Who waits for whom, by what is named: a request that came again waits for the first."""
        return OneAtATime()

    def request_id(self) -> str:
        """Return a new id for a request."""
        return "req_" + self.new_id()

    def new_id(self, prefix: str = "") -> str:
        """Return a new id that sorts behind those made before."""
        return prefix + self.ids.event(self.clock.now_us())

    def seconds(self) -> int:
        """Return the time in whole seconds since the epoch."""
        return self.clock.now_us() // 1_000_000

    def model(self, name: object) -> str:
        """Return the `provider:model` behind a client's name for it.

        Raises `InvalidRequest` (E-MODEL-NAME). A client cannot name a provider that the operator
        has not listed: a scripted model, say, would be a file of the server's.
        """
        if not isinstance(name, str | None):  # it is what a client wrote
            raise InvalidRequest("E-MODEL-NAME", "model is no name of a model.")
        wanted = name or self.settings.default_model
        models = self.settings.models
        if not isinstance(wanted, str):  # as it came from a client
            raise InvalidRequest("E-MODEL-NAME", "The model's name is a text.")
        if wanted in models:
            return models[wanted]
        fitting = [glob for glob in models if fnmatch.fnmatchcase(wanted, glob)]
        if fitting:
            target = models[max(fitting, key=len)]
            return target.replace("*", wanted) if target.endswith(":*") else target
        known = ", ".join(models) or "none"
        raise InvalidRequest(
            "E-MODEL-NAME",
            f"This server has no model {wanted!r}. It has: {known}.",
            "The operator adds models under [server.models] in perdure.toml.",
        )

    def log_failure(self, request_id: str, path: str, error: Exception) -> None:
        """Write an unforeseen failure to the log, with its stack."""
        _LOG.error("request.failed id=%s path=%s", request_id, path, exc_info=error)
