"""What the vendor's tests of vaults and automations ask for."""

from perdure.doors.credentials import CredentialRecord, Credentials, VaultRecord
from perdure.doors.openai.agents import definitions
from perdure.doors.openai.agents.records import AgentRecord, agents
from perdure.doors.openai.automations.records import (
    AutomationRecord,
    InvocationRecord,
    automations,
    invocations,
    scheduled,
)
from perdure.serving.server import Server


async def vaults(server: Server) -> None:
    """Make the vault with its one credential."""
    engine = await server.projects.engine("default")
    held = Credentials(engine.kit.store, server.vault_of("default"))
    if await held.vaults.find("vault_id") is None:
        await held.vaults.put("vault_id", VaultRecord("vault_id", 1, 1, "v"))
    if await held.find("vault_id", "credential_id") is not None:
        return
    refresh = {
        "client_id": "c",
        "token_endpoint": "https://example.com/token",
        "token_endpoint_auth": {"type": "client_secret_basic"},
        "scope": None,
        "resource": None,
    }
    shown = {"type": "mcp_oauth", "mcp_server_url": "https://example.com/mcp", "refresh": refresh}
    record = CredentialRecord("credential_id", "vault_id", 1, 1, "c", {**shown, "expires_at": None})
    secrets = {"access_token": "a", "refresh_token": "r", "client_secret": "s"}
    await held.keep(record, secrets)


async def timed(server: Server) -> None:
    """Make the automation with its one invocation, and the agent that it runs."""
    store = (await server.projects.engine("default")).kit.store
    kept = agents(store)
    if await kept.find("agent_id") is None:
        settings = definitions.settings({"model": "gpt-6-astra"})
        await kept.put("agent_id", AgentRecord("agent_id", 1, 1, settings))
    if await automations(store).find("automation_id") is not None:
        return
    request = {"agent_id": "agent_id", "environment": {"type": "none"}, "input": "Hi"}
    shown: dict[str, object] = {
        "type": "new_session",
        "agent": None,
        "agent_id": "agent_id",
        "environment": {"type": "none"},
        "input": [],
        "metadata": {},
        "vault_ids": [],
    }
    when = {"type": "periodic", "expression": "0 3 1 1 *", "timezone": "UTC"}
    schedule = scheduled(when, "automation_id", server.services.clock.now_us())
    target = {"type": "new_session", "request": request, "shown": shown}
    record = AutomationRecord("automation_id", 1, "n", schedule, target)
    await automations(store).put("automation_id", record)
    run = InvocationRecord("invocation_id", "automation_id", 1, status="completed")
    await invocations(store).put(run.key, run)
