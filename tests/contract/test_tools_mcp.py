"""MCP servers as toolsets, against real servers over stdio and streamable HTTP."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.core.agent import Effect
from perdure.core.errors import InvalidRequest, Unavailable
from perdure.core.secrets import Secret
from perdure.ports.tool import OutcomeUnknown
from perdure.tools.mcp import McpToolset
from perdure.tools.mcp.mapping import names_of
from tests.contract.mcp_shop import OWNER, ROOT, SERVER, Shop, code_of, kill, offered, text
from tests.contract.tool_doubles import Context


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    made = Shop(tmp_path)
    yield made
    await made.close()


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A pipe by which another process says that it has begun: reading waits for it."""
    path = tmp_path / "mark"
    os.mkfifo(path)
    return path


async def begun(mark: Path) -> None:
    assert await asyncio.to_thread(mark.read_text) == "begun"


async def gone(pid: int) -> None:
    """Wait until a process, not a child of ours, has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), 10)
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


# What is offered, and what it answers: the same over both transports.


@pytest.fixture(params=["stdio", "http", "legacy"])
async def toolset(request: pytest.FixtureRequest, shop: Shop) -> McpToolset:
    if request.param == "stdio":
        return shop.stdio()
    port, _ = await shop.serve("0", request.param)
    return shop.http(port)


async def test_tools_and_answers(toolset: McpToolset) -> None:
    tools = await offered(toolset)
    assert {name: tools[name].spec.effect for name in ("look", "set", "pay")} == {
        "look": Effect.READ,
        "set": Effect.IDEMPOTENT,
        "pay": Effect.ONCE,
    }
    spec = tools["look"].spec
    assert (spec.description, spec.source) == ("To look.", "mcp:shop")
    assert msgspec.json.decode(spec.input_schema)["properties"] == {"order": {"type": "integer"}}
    assert await text(tools["look"], order=3) == 'look {"order": 3}'
    assert await text(tools["key"]) == '"s-1/t1.1"'
    assert await text(tools["misfit"]) == "done"
    assert await text(tools["show"]) == "a text\n[image, image/png, 6 bytes]\n[a link: x file:///x]"
    assert sum("odd_na_me" in name for name in tools) == 1
    context = Context()
    await tools["progress"].call({}, context)
    assert context.shown == ["1 of 2 half\n"]
    many = await asyncio.gather(*(text(tools["look"], order=n) for n in range(20)))
    assert many[19] == 'look {"order": 19}'


async def test_failures_are_answers(toolset: McpToolset) -> None:
    tools = await offered(toolset)
    output = await tools["broken"].call({}, Context())
    assert output.text == "it broke"
    assert output.error is not None
    assert output.error.code == "E-TOOL-FAILED"
    assert await code_of(tools["refuse"]) == "E-TOOL-FAILED"
    assert await tools["pay"].probe({}, Context()) is None
    with pytest.raises(InvalidRequest, match="E-TOOL-ARGUMENTS"):
        await tools["pay"].call({"order": "\ud800"}, Context())
    assert await text(tools["pay"], order=1) == 'pay {"order": 1}'


async def test_a_cancelled_call_leaves_the_connection_usable(
    toolset: McpToolset, mark: Path
) -> None:
    tools = await offered(toolset)
    task = asyncio.create_task(tools["hang"].call({"mark": str(mark)}, Context()))
    await begun(mark)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await text(tools["look"]) == "look {}"


async def test_a_timeout_around_a_call_is_a_timeout(toolset: McpToolset, tmp_path: Path) -> None:
    tools = await offered(toolset)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await tools["hang"].call({"mark": str(tmp_path / "m")}, Context())


# Configuration.


async def test_the_operators_word_wins(shop: Shop) -> None:
    effects = {"look": "once", "pay": "idempotent"}
    tools = await offered(shop.stdio(effects=effects, allow=["look", "pa*"]))
    assert {name: made.spec.effect for name, made in tools.items()} == {
        "look": Effect.ONCE,
        "pay": Effect.IDEMPOTENT,
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"command": "x", "url": "http://y"},
        {"command": "x", "effects": {"a": "sometimes"}},
        {"name": "a__b", "command": "x"},
        {"name": "a b", "command": "x"},
        {"name": "", "command": "x"},
    ],
)
def test_what_cannot_be_a_server(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="E-MCP-CONFIG"):
        McpToolset(**({"name": "shop"} | options))


def test_names_are_valid_and_never_alike() -> None:
    tools = ["a.b", "a/b", "a_b", "x" * 100, "x" * 101, "é", ""]
    names = names_of("shop", tools)
    assert len(set(names.values())) == len(tools)
    assert all(name.replace("_", "").replace("-", "").isalnum() for name in names.values())
    assert all(len(name) <= 64 and name.isascii() for name in names.values())
    assert names["a_b"] == "shop__a_b"


async def test_environment_and_secrets_reach_only_the_server(shop: Shop) -> None:
    script = "import os, sys; sys.exit(os.environ['TOKEN'] + str(sorted(os.environ)))"
    secret = Secret("s3cr3t-value")
    toolset = McpToolset("x", command=sys.executable, args=["-c", script], env={"TOKEN": secret})
    with pytest.raises(Unavailable) as caught:
        await toolset.open()
    assert "s3cr3t-value" in caught.value.message
    assert "PYTEST_CURRENT_TEST" in os.environ
    assert "PYTEST" not in caught.value.message
    await toolset.close()


# Servers that do not come up, or go away.


async def test_a_server_that_cannot_be_reached_says_why(shop: Shop) -> None:
    cases = [
        (McpToolset("shop", command="no-such-program"), "cannot start no-such-program"),
        (McpToolset("shop", command="sh", args=["-c", "echo broken >&2"]), "It printed: broken"),
        (McpToolset("shop", url="http://127.0.0.1:1/mcp"), "connection attempts failed"),
        (McpToolset("shop", command="sleep", args=["1000"], timeout_s=0.2), "no answer within"),
    ]
    for toolset, words in cases:
        with pytest.raises(Unavailable) as caught:
            await toolset.open()
        assert caught.value.code == "E-MCP-UNREACHABLE"
        assert words in caught.value.message
        await toolset.close()


async def test_a_server_that_dies_in_mid_call_leaves_the_outcome_unknown(shop: Shop) -> None:
    tools = await offered(shop.stdio())
    with pytest.raises(OutcomeUnknown, match="broke while exit was running"):
        await tools["exit"].call({}, Context())
    assert await text(tools["look"]) == "look {}"


@pytest.mark.parametrize("legacy", ["", "legacy"])
async def test_a_killed_http_server_and_its_return(shop: Shop, mark: Path, legacy: str) -> None:
    port, process = await shop.serve("0", legacy)
    tools = await offered(shop.http(port))
    task = asyncio.create_task(tools["hang"].call({"mark": str(mark)}, Context()))
    await begun(mark)
    await kill(process)
    with pytest.raises(OutcomeUnknown):
        await task
    assert await code_of(tools["look"]) == "E-MCP-UNREACHABLE"
    await shop.serve(str(port), legacy)
    assert await text(tools["look"]) == "look {}"


async def test_a_server_that_forgot_the_session_is_asked_again(shop: Shop) -> None:
    port, process = await shop.serve("0", "legacy")
    tools = await offered(shop.http(port))
    await kill(process)
    await shop.serve(str(port), "legacy")
    assert await text(tools["pay"]) == "pay {}"


async def test_a_gateway_error_is_not_an_answer() -> None:
    async def gateway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(gateway, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        toolset = McpToolset("shop", url=f"http://127.0.0.1:{port}/mcp")
        with pytest.raises(Unavailable, match="HTTP status 504"):
            await toolset.open()
        await toolset.close()


async def test_nothing_is_left_after_close(shop: Shop) -> None:
    toolset = shop.stdio()
    tools = await offered(toolset)
    pids = json.loads(await text(tools["spawn"]))
    assert len(pids) == 3
    await toolset.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_nothing_is_left_when_the_owner_is_killed(shop: Shop) -> None:
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, OWNER, SERVER, str(shop.file), "stdio"),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert owner.stdout is not None
    pids = json.loads(await owner.stdout.readline())
    owner.send_signal(signal.SIGKILL)
    await owner.communicate()
    for pid in pids:
        await gone(pid)
