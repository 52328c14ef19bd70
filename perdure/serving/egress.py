"""What a session's vaults hold for its commands: read for each command anew, never kept."""

import contextlib
from collections.abc import Awaitable, Callable, Sequence

from perdure.core.errors import NotFound
from perdure.core.secrets import Secret
from perdure.doors.credentials import PLACEHOLDER, CredentialRecord, Credentials, active
from perdure.doors.openai.agents.records import sessions
from perdure.environments.egress.substitution import Substitution
from perdure.ports.store import Store
from perdure.ports.vault import Vault


def secrets_of(store: Store, vault: Vault) -> Callable[[str], Awaitable[Sequence[Substitution]]]:
    """Return what gives the secrets of a project's sessions, each for its hosts only.

    A credential that was archived, deleted or renewed is so from the next command on.
    """
    credentials = Credentials(store, vault)

    async def found(session: str) -> Sequence[Substitution]:
        record = await sessions(store).find(session)
        made: list[Substitution] = []
        for vault_id in record.vault_ids if record is not None else ():
            with contextlib.suppress(NotFound):  # put out of use: its placeholders stay as they are
                known = await active(store, (vault_id,))
                made += [await _made(credentials, each) for each in known if _is_variable(each)]
        return made

    return found


def _is_variable(record: CredentialRecord) -> bool:
    return record.auth.get("type") == "environment_variable"


async def _made(credentials: Credentials, record: CredentialRecord) -> Substitution:
    secret = Secret(str((await credentials.secrets(record))["secret_value"]))
    networking = record.auth.get("networking") or {}
    free = networking.get("type") == "unrestricted"
    hosts = None if free else tuple(networking.get("allowed_hosts") or ())
    return Substitution(f"{PLACEHOLDER}{record.key}", secret, hosts)
