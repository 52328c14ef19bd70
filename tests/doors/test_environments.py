"""Hosted environments: prepared once, before the first turn; and what the agent leaves there."""

import base64
import io
import zipfile
from pathlib import Path
from typing import Any

import openai
import pytest

from perdure.core import events as e
from perdure.doors.openai.agents.hosting import read_hosting
from perdure.doors.openai.problems import Wording
from perdure.engine.replay import replay
from perdure.engine.session import Session
from perdure.models.scripted import Call
from tests.doors.serving import Reply, script, up
from tests.environments.doubles import needs_sandbox

SECRET = "canary-value-7711"
in_sandbox = needs_sandbox()


TEA = """---
name: tea
description: "Makes tea."
---
Boil it.
"""


def inline(name: str, description: str, files: dict[str, str]) -> dict[str, Any]:
    """A plugin or a skill as a client sends it."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    data = base64.b64encode(made.getvalue()).decode()
    source = {"type": "base64", "media_type": "application/zip", "data": data}
    return {"type": "inline", "name": name, "description": description, "source": source}


SKILL = inline("tea", "Makes tea.", {"tea/SKILL.md": TEA, "tea/how/long.txt": "three minutes"})
PLUGIN = inline(
    "cups",
    "Has cups.",
    {
        ".codex-plugin/plugin.json": '{"name": "cups", "description": "Has cups."}',
        "list.txt": "two cups",
    },
)


def bash(command: str) -> Reply:
    return Reply(text="", call=(Call("bash", {"command": command}),))


def hosted(**more: Any) -> Any:
    return {"type": "openai_hosted", **more}


async def ran(client: Any, model: str, environment: Any, **more: Any) -> Any:
    """Run a session to its rest; return it."""
    stream = await client.beta.agents.sessions.create(
        agent={"model": model}, environment=environment, input="Go", stream=True, **more
    )
    return [event async for event in stream][-1].session


async def said(client: Any, session: str) -> str:
    items = [item async for item in client.beta.agents.sessions.items.list(session, order="asc")]
    return str(items[-1].content[0].text)


@in_sandbox[0]
@in_sandbox[1]
async def test_files_variables_and_commands_are_there_before_the_first_turn(tmp_path: Path) -> None:
    look = "cat data/in.txt; echo $GREETING; cat made; echo count $(wc -l < log)"
    models = {"look": script(bash(look), Reply(text="{{last_result}}"))}
    data = base64.b64encode(b"from a file\n").decode()
    environment = hosted(
        container_size="small",
        env={"GREETING": 'it\'s "$HOME" here'},
        files=[{"type": "inline", "path": "/workspace/data/in.txt", "data": data}],
        setup_commands=[
            {"command": "echo made > ../made", "cwd": "/workspace/data"},
            {"command": "echo once >> log"},
        ],
    )
    async with up(models, tmp_path / "s.db") as server:
        client: Any = await server.openai()
        session = await ran(client, "look", environment)
        text = await said(client, session.id)
        for part in ("from a file", 'it\'s "$HOME" here', "made", "count 1"):
            assert part in text
        shown = session.environment
        assert (shown.type, shown.container_size, shown.network.access) == (
            "openai_hosted", "small", "disabled",
        )  # fmt: skip
        assert [(f.path, f.size_bytes) for f in shown.files] == [("/workspace/data/in.txt", 12)]
        info = await client.beta.agents.environments.retrieve(shown.id)
        assert (info.status, info.type) == ("connected", "openai_hosted")
        engine = await server.server.projects.engine("default")
        events = [event async for event in Session(engine, session.id).events()]
        assert isinstance(events[0].payload, e.SessionCreated)
        spec = events[0].payload.agent.environment
        assert (spec.memory_bytes, spec.network) == (1024**3, ())
        assert isinstance(events[1].payload, e.NoteRecorded)
        assert isinstance(events[2].payload, e.EnvironmentSnapshotted)


@in_sandbox[0]
@in_sandbox[1]
async def test_a_setup_command_that_fails_makes_a_session_that_has_failed(tmp_path: Path) -> None:
    async with up({"talk": script(Reply(text="Hi"))}, tmp_path / "s.db") as server:
        client: Any = await server.openai()
        agents = client.beta.agents
        commands = [{"command": "true"}, {"command": "echo no such thing >&2; exit 3"}]
        environment = hosted(setup_commands=commands)
        stream = await agents.sessions.create(
            agent={"model": "talk"}, environment=environment, input="Go", stream=True
        )
        events = [event async for event in stream]
        assert [event.type.removeprefix("agent.session.") for event in events] == [
            "created", "environment.failed", "failed",
        ]  # fmt: skip
        state, session = events[1].environment, events[2].session
        assert (state.status, state.error.code) == ("failed", "E-ENV-SETUP")
        assert session.status == "failed"
        assert "Setup command 2 of 2 failed (exit status 3)" in session.error
        assert "no such thing" in session.error
        assert [each.id async for each in agents.sessions.list()] == [session.id]
        assert [turn async for turn in agents.sessions.turns.list(session.id)] == []
        cancel = [{"type": "agent.session.input.cancel"}]
        await agents.sessions.events.create(session.id, events=cancel)
        assert (await agents.sessions.retrieve(session.id)).status == "failed"
        engine = await server.server.projects.engine("default")
        report = await replay([event async for event in Session(engine, session.id).events()])
        assert report.identical, report
        await agents.sessions.delete(session.id)


@in_sandbox[0]
@in_sandbox[1]
async def test_an_environment_made_ahead_that_failed_says_so_and_has_no_session(
    tmp_path: Path,
) -> None:
    async with up({"talk": script(Reply(text="Hi"))}, tmp_path / "s.db") as server:
        client: Any = await server.openai()
        environments = client.beta.agents.environments
        missing = hosted(packages={"system": ["no-such-package-at-all"]})
        made = await environments.create(environment=missing, idempotency_key="k")
        assert made.status == "failed"
        again = await environments.create(environment=missing, idempotency_key="k")
        assert (again.id, (await environments.retrieve(made.id)).status) == (made.id, "failed")
        with pytest.raises(openai.BadRequestError, match="no-such-package-at-all"):
            await ran(client, "talk", hosted(environment_id=made.id))
        there = await environments.create(environment=hosted(packages={"system": ["bash"]}))
        assert there.status == "ready"


@in_sandbox[0]
@in_sandbox[1]
async def test_plugins_and_skills_lie_in_the_workspace_and_the_agent_is_told(
    tmp_path: Path,
) -> None:
    look = "cat .skills/tea/SKILL.md .skills/tea/how/long.txt .plugins/cups/list.txt"
    models = {"look": script(bash(look), Reply(text="{{last_result}}"))}
    async with up(models, tmp_path / "s.db") as server:
        client: Any = await server.openai()
        template = await client.beta.agents.environments.templates.create(plugins=[PLUGIN])
        assert [plugin.name for plugin in template.plugins] == ["cups"]
        environment = hosted(environment_template_id=template.id, skills=[SKILL])
        session = await ran(client, "look", environment)
        text = await said(client, session.id)
        assert "name: tea" in text
        assert "three minutes" in text
        assert "two cups" in text
        assert [each.to_dict() for each in session.environment.skills] == [
            {"type": "inline", "name": "tea", "description": "Makes tea."}
        ]
        engine = await server.server.projects.engine("default")
        told = (await Session(engine, session.id).state()).spec.instructions
        assert "- skill tea: Makes tea. (in /workspace/.skills/tea)" in told
        assert "- plugin cups: Has cups. (in /workspace/.plugins/cups)" in told
        assert "three minutes" not in told


@in_sandbox[0]
@in_sandbox[1]
async def test_a_secret_variable_is_a_placeholder_in_the_sandbox(tmp_path: Path) -> None:
    models = {"look": script(bash("echo got $API_KEY"), Reply(text="{{last_result}}"))}
    async with up(models, tmp_path / "s.db") as server:
        client: Any = await server.openai()
        vault = await client.beta.agents.vaults.create()
        auth: Any = {
            "type": "environment_variable", "secret_name": "API_KEY", "secret_value": SECRET,
            "networking": {"type": "limited", "allowed_hosts": ["api.example.com"]},
        }  # fmt: skip
        made = await client.beta.agents.vaults.credentials.create(vault.id, name="k", auth=auth)
        session = await ran(client, "look", hosted(), vault_ids=[vault.id])
        assert f"got perdure-secret:{vault.id}/{made.id}" in await said(client, session.id)
        files = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
        assert not [data for data in files if SECRET.encode() in data]


@in_sandbox[0]
@in_sandbox[1]
async def test_an_environment_made_ahead_has_one_session(tmp_path: Path) -> None:
    models = {"look": script(bash("cat a b; echo new > c"), Reply(text="{{last_result}}"))}
    async with up(models, tmp_path / "s.db") as server:
        client: Any = await server.openai()
        made = client.beta.agents.environments
        environment: Any = hosted(setup_commands=[{"command": "echo first > a"}])
        first = await made.create(environment=environment, idempotency_key="k1")
        assert first.status == "ready"
        again = await made.create(environment=environment, idempotency_key="k1")
        assert again.id == first.id
        data = base64.b64encode(b"second\n").decode()
        upload = await client.files.create(file=("x", b"second\n"), purpose="user_data")
        file = await made.files.create(
            first.id, type="file_id", path="/workspace/b", file_id=upload.id
        )
        assert (file.path, file.size_bytes) == ("/workspace/b", 7)
        session = await ran(client, "look", hosted(environment_id=first.id))
        text = await said(client, session.id)
        assert "first" in text
        assert "second" in text
        listed = made.files.list(first.id, order="asc", limit=1)
        assert [f.path async for f in listed] == ["/workspace/a", "/workspace/b", "/workspace/c"]
        with pytest.raises(openai.BadRequestError):
            await ran(client, "look", hosted(environment_id=first.id))
        with pytest.raises(openai.BadRequestError):
            await made.files.create(first.id, type="inline", path="/workspace/d", data=data)


@in_sandbox[0]
@in_sandbox[1]
async def test_a_template_is_what_environments_begin_with(tmp_path: Path) -> None:
    models = {"look": script(bash("echo $A$B"), Reply(text="{{last_result}}"))}
    async with up(models, tmp_path / "s.db") as server:
        client: Any = await server.openai()
        templates = client.beta.agents.environments.templates
        made = await templates.create(
            name="base", env={"A": "one"},
            network={"access": "restricted", "allowed_domains": ["example.com"]},
        )  # fmt: skip
        changed = await templates.update(made.id, env={"A": "two"})
        assert changed.network.allowed_domains == ["example.com"]
        environment = hosted(environment_template_id=made.id, env={"B": "+"})
        session = await ran(client, "look", environment)
        assert "two+" in await said(client, session.id)
        assert session.environment.network.allowed_domains == ["example.com"]
        wider = hosted(environment_template_id=made.id, network={"access": "enabled"})
        with pytest.raises(openai.BadRequestError):
            await ran(client, "look", wider)
        await templates.delete(made.id)
        assert [t async for t in templates.list()] == []


WRONG: list[Any] = [
    {"container_size": "huge"},
    {"packages": {"npm": ["left-pad"]}},  # without a network
    {"packages": {"npm": ["--registry=http://evil"]}, "network": {"access": "enabled"}},
    {"packages": {"system": ["; rm"]}},
    {"packages": {"python": ["requests"]}},  # without a network
    {"packages": {"python": ["--index-url=http://evil"]}, "network": {"access": "enabled"}},
    {"files": [{"type": "inline", "path": "/etc/passwd", "data": ""}]},
    {"files": [{"type": "inline", "path": "/workspace/../x", "data": ""}]},
    {"files": [{"type": "inline", "path": "a", "data": "no base64!"}]},
    {"env": {"A;rm -rf": "x"}},
    {"setup_commands": [{"command": "ls", "cwd": "/etc"}]},
    {"network": {"access": "restricted", "allowed_domains": ["a.com; b"]}},
    {"network": {"access": "enabled", "blocked_domains": ["a.com"]}},
    {"network": {"access": "restricted", "blocked_domains": ["*.a.com"]}},
    {"skills": [{"type": "skill_reference", "skill_id": "s"}]},
    {"skills": [{"type": "skill_reference", "skill_id": "s", "version": "version"}]},
    {"plugins": [{}]},
    {"plugins": {}},
    {"plugins": [{**PLUGIN, "name": "other"}]},
    {"plugins": [PLUGIN, PLUGIN]},
    {"plugins": [inline("cups", "Has cups.", {"a.txt": "no manifest"})]},
    {"plugins": [inline("cups", "Has cups.", {".codex-plugin/plugin.json": "[" * 100_000})]},
    {"skills": [{**SKILL, "description": "other"}]},
    {"skills": [inline("tea", "Makes tea.", {"SKILL.md": TEA, "../../evil": "x"})]},
    {"skills": [inline("tea", "Makes tea.", {"SKILL.md": TEA, "large": "0" * 2**25})]},
    {"skills": [{**SKILL, "source": {**SKILL["source"], "data": "x"}}]},
    {"skills": [{**SKILL, "source": {**SKILL["source"], "data": "UEsDBA=="}}]},
    {"desktop": {"enabled": True}},
]


@pytest.mark.parametrize("given", WRONG)
def test_what_cannot_be_had_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(Wording) as error:
        read_hosting(given)
    assert error.value.status == (404 if "No skill found" in error.value.message else 400)


@pytest.mark.parametrize(
    ("network", "reach"),
    [
        ({"access": "disabled"}, ()),
        ({"access": "enabled"}, ("*",)),
        ({"access": "restricted"}, ()),
        ({"access": "restricted", "allowed_domains": ["A.com"]}, ("a.com",)),
        ({"access": "restricted", "blocked_domains": ["b.com"]}, ("*", "!b.com")),
    ],
)
def test_what_commands_may_reach(network: dict[str, Any], reach: tuple[str, ...]) -> None:
    assert read_hosting({"network": network})[0].spec("bubblewrap").network == reach


async def test_other_kinds_of_environment_say_what_they_are_not() -> None:
    async with up({"talk": script(Reply(text="Hi"))}) as server:
        client: Any = await server.openai()
        mine: Any = {"type": "self_hosted", "workspace_directory": "/w"}
        with pytest.raises(openai.BadRequestError, match="not available on this server yet"):
            await ran(client, "talk", mine)
        assert (await ran(client, "talk", {"type": "none"})).environment.type == "none"
