"""The command line here and against a server: the same words, the same answers."""

import asyncio
import json
import re
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from perdure.app import Options
from perdure.cli.agents import Overrides, load_agent
from perdure.config import load_project
from perdure.doors.settings import ServerSettings
from perdure.serving.server import Plan, Server
from tests.cli.shell import Done, Shell, script
from tests.doors.serving import QUICK

REFUND = "refund {order = 9, eur = 38.0}"
Run = Callable[..., Awaitable[Done]]


@asynccontextmanager
async def served(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, str]]:
    """Serve the folder's agent; yield the environment in which `perdure` uses it."""
    monkeypatch.delitem(sys.modules, "agent", raising=False)  # another test's; it names the tools
    monkeypatch.chdir(shell.folder)  # where its script is
    project = load_project(shell.folder, {})
    agent = load_agent("agent.py", project, Overrides())
    settings = ServerSettings(models={"scripted:*": "scripted:*"})
    plan = Plan(
        "sqlite:///server.db", settings, Options(bounds=QUICK, prices=project.prices), [agent]
    )
    server = await Server.open(plan)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        web = uvicorn.Server(uvicorn.Config(server.app, log_level="warning", lifespan="off"))
        running = asyncio.create_task(web.serve(sockets=[listener]))
        _, key = await server.keys.make("default", "operator")
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield {"PERDURE_URL": url, "PERDURE_API_KEY": key}
        finally:
            web.should_exit = web.force_exit = True
            await running
            await server.close()


def runner(shell: Shell, environ: dict[str, str]) -> Run:
    async def run(*words: str, stdin: str = "") -> Done:
        agent = "helper" if environ else "agent.py"
        typed = [agent if word == "AGENT" else word for word in words]
        return await asyncio.to_thread(shell.perdure, *typed, stdin=stdin, **environ)

    return run


_MOMENT = re.compile(r"(_us|^pid|^id|^at|age_s|expires_in_s|^hash|^epoch)$")


def plain(value: Any) -> Any:
    """Return a document without moments and ids; who said something is said without the key."""
    match value:
        case dict():
            return {k: "·" if _MOMENT.search(k) else plain(v) for k, v in value.items()}
        case list():
            return [plain(each) for each in value]
        case str():
            said = re.sub(r"(\S*) via key_[0-9a-f]+", r"\1", value)
            said = re.sub(r"cli:[0-9a-f]{24}|auto:\w+", "·", said)
            return re.sub(r"2\d{7}T[\d.]+Z|2\d{3}-\d\d-\d\d[T ][\d:]+(UTC|[+\d:])*", "·", said)
        case _:
            return value


def told(done: Done) -> Any:
    """Return what a command printed, comparable: pieces are told apart by nothing but their sum."""
    lines = done.lines
    live = [line["live"] for line in lines if isinstance(line, dict) and "live" in line]
    rest = [line for line in lines if not (isinstance(line, dict) and "live" in line)]
    shown = "".join(piece.get("text", "") for piece in live)
    return done.status, shown, plain(rest)


def differences(here: Any, there: Any, path: str = "") -> list[str]:
    """Return where two documents differ."""
    if isinstance(here, dict) and isinstance(there, dict):
        names = {**here, **there}
        pairs = [(f"{path}.{n}", here.get(n), there.get(n)) for n in names]
    elif isinstance(here, list | tuple) and isinstance(there, list | tuple):
        if len(here) != len(there):
            return [f"{path}: {len(here)} and {len(there)} items: {here} and {there}"]
        pairs = [(f"{path}[{n}]", *each) for n, each in enumerate(zip(here, there, strict=True))]
    else:
        return [] if here == there else [f"{path}: {here!r} and {there!r}"]
    return [found for pair in pairs for found in differences(pair[1], pair[2], pair[0])]


async def scenario(run: Run) -> list[tuple[str, Any]]:
    """Say what people say in a day; return what they read."""
    seen: list[tuple[str, Any]] = []

    async def say(*words: str, stdin: str = "") -> Done:
        done = await run(*words, "--json", stdin=stdin)
        seen.append((" ".join(words), told(done)))
        return done

    await say("ls")
    await say("run", "AGENT", "38 back", "--session", "s1", "--limit", "steps=9")
    await say("ls", "--waiting")
    await say("approve")
    await say("show", "s1")
    await say("approve", "s1", "--allow", "--for", "session")
    await say("resume", "s1")
    await say("approve", "s1:a1", "--deny")
    await say("approve", "--rules")
    await say("approve", "--revoke", "s1:a1")
    await say("run", "s1", "and again")
    await say("show", "s1", "--context")
    await say("show", "s1", "--state")
    await say("show", "s1", "--events")
    await say("show", "s1:1")
    await say("replay", "s1")
    await say("fork", "s1", "--at", "1", "--name", "s2", "--yes")
    await say("show", "s1", "s2", "--compare")
    await say("rewind", "s1", "--to", "1", "--yes")
    await say("signal", "s1", "paid", "12", "--key", "k1")
    await say("signal", "s1", "paid", "12", "--key", "k1")
    await say("compact", "s1")
    await say("stop", "s2")
    await say("stop", "s2", "--close")
    await say("run", "s2", "more")
    await say("answer", "s1")
    await say("errors")
    await say("errors", "show", "f00")
    await say("show", "nobody")
    lines = (await run("export", "s1")).out
    assert len(lines.splitlines()) > 10
    await say("import", "-", "--name", "s3", stdin=lines)
    await say("import", "-", "--name", "s3", stdin=lines)
    await say("schedule", "add", "nightly", "Report.", "--agent", "AGENT", "--cron", "@daily")
    await say("schedule", "ls")
    await say("schedule", "pause", "nightly")
    await say("schedule", "resume", "nightly")
    await say("schedule", "show", "nightly")
    await say("schedule", "rm", "nightly")
    return seen


@pytest.mark.slow
async def test_a_day_here_and_at_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days: list[list[tuple[str, Any]]] = []
    for name in ("here", "there"):
        shell = Shell(tmp_path / name)
        shell.folder.mkdir()
        shell.agent(REFUND, "So: {{last_result}}", "Then: {{last_user}}")
        if name == "here":
            days.append(await scenario(runner(shell, {})))
            continue
        async with served(shell, monkeypatch) as environ:
            days.append(await scenario(runner(shell, environ)))
        assert not (shell.folder / ".perdure" / "perdure.db").exists()
        left = [path for path in shell.folder.rglob("*") if path.is_file()]
        assert not any(environ["PERDURE_API_KEY"].encode() in p.read_bytes() for p in left)
    found = {here[0]: differences(here[1], there[1]) for here, there in zip(*days, strict=True)}
    assert [f"{what} {where}" for what, each in found.items() for where in each] == []


async def test_what_the_words_for_people_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = Shell(tmp_path)
    shell.agent("Good day to you, all of you.")
    shell.write("script.toml", script("Good day to you, all of you.", delay_s=0.02))
    async with served(shell, monkeypatch) as environ:
        run = runner(shell, environ)
        done = await run("run", "helper", "Hi", "--session", "s1")
        assert done.status == 0 and "Good day to you, all of you." in done.out, done.err
        looked = await run("doctor", "--json")
        server = next(f for f in looked.lines[0]["findings"] if f["about"] == "server")
        assert server["ok"] and "operator of project default" in server["detail"]
        missing = await run("run", "nobody", "Hi")
        assert missing.status == 3 and "E-AGENT-UNKNOWN" in missing.out + missing.err
        detached = await run("run", "helper", "Hi", "--session", "s2", "--detach")
        assert detached.out.strip() == "s2"
        for words in (
            ("demo",), ("new", "mine"), ("work",), ("up",), ("doctor", "--verify"),
            ("show", "s1", "--apply"), ("approve", "--tools"),
            ("run", "helper", "Hi", "--workspace", "."), ("run", "helper", "Hi", "--unsandboxed"),
        ):  # fmt: skip
            refused = await run(*words)
            assert (refused.status, "E-REMOTE-HERE" in refused.err) == (2, True), words
        bad = environ | {"PERDURE_API_KEY": "pdk_wrong"}
        stranger = await runner(shell, bad)("ls", "--json")
        assert stranger.lines[0]["error"]["code"] == "E-AUTH" and stranger.status == 5
        assert "export PERDURE_API_KEY" in stranger.lines[0]["error"]["hint"]
        assert "pdk_wrong" not in stranger.out + stranger.err
    gone = await run("ls", "--json")
    assert (gone.status, gone.lines[0]["error"]["code"]) == (6, "E-REMOTE-UNREACHABLE")
    local = await runner(shell, {"PERDURE_URL": ""})("ls", "--json")
    assert json.loads(local.out) == []


async def test_the_server_may_be_named_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = Shell(tmp_path)
    shell.agent("Hello.")
    async with served(shell, monkeypatch) as environ:
        url, key = environ["PERDURE_URL"], environ["PERDURE_API_KEY"]
        shell.write("perdure.toml", f'[remote]\nurl = "{url}"\napi_key_env = "MY_KEY"\n')
        done = await runner(shell, {"MY_KEY": key})("run", "helper", "Hi", "--session", "s1")
        assert done.status == 0, done.err
        without = await runner(shell, {"X": ""})("ls")
        assert without.status == 5 and "E-REMOTE-KEY" in without.err


async def test_a_folder_that_knows_nothing_of_the_server_goes_on_with_its_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = Shell(tmp_path / "theirs")
    shell.folder.mkdir()
    shell.agent(REFUND, "So: {{last_result}}")
    elsewhere = Shell(tmp_path / "mine")
    elsewhere.folder.mkdir()
    async with served(shell, monkeypatch) as environ:
        done = await runner(shell, environ)("run", "helper", "Hi", "--session", "s1", "--no-wait")
        assert done.status == 4, done.err
        resumed = await runner(elsewhere, environ)("resume", "s1", "--yes")
        assert resumed.status == 0 and "refunded 38.0" in resumed.out, resumed.err
