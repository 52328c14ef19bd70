"""What `perdure up` says of its addresses, and which names of models it begins with."""

import asyncio
import json
import os
import subprocess
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import httpx2
import pytest

from perdure.cli.whereabouts import whereabouts
from tests.doors.running import launched, refused, running

TALK = '[[reply]]\ntext = "Good morning."\n'
CONFIG = '[server.models]\ntalk = "scripted:talk.toml"\n'


@pytest.fixture
def inn(tmp_path: Path) -> Path:
    (tmp_path / "talk.toml").write_text(TALK)
    (tmp_path / "perdure.toml").write_text(CONFIG)
    return tmp_path


async def a_key(inn: Path) -> str:
    command = [sys.executable, "-m", "perdure", "admin", "keys", "new", "--role", "admin", "--json"]
    made = await asyncio.create_subprocess_exec(*command, cwd=inn, stdout=PIPE)
    return str(json.loads((await made.communicate())[0])["key"])


@pytest.mark.parametrize(("host", "here"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]")])
async def test_all_addresses_are_no_address_to_export(inn: Path, host: str, here: str) -> None:
    key = await a_key(inn)
    command = [sys.executable, "-m", "perdure", "up", "--port", "0", "--host", host]
    process = await asyncio.create_subprocess_exec(*command, cwd=inn, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    lines, named = list[str](), dict[str, str]()
    while not (lines and "TLS" in lines[-1]):
        lines.append((await process.stdout.readline()).decode())
        assert lines[-1], await refused(process)
        if lines[-1].startswith("  export "):
            name, _, value = lines[-1].removeprefix("  export ").strip().partition("=")
            named[name] = value
    assert named["PERDURE_URL"].startswith(f"http://{here}:")
    assert not any(f"//{host}" in line or f"[{host}]" in line for line in lines), lines
    said = " ".join(lines)
    assert "all addresses" in said and "elsewhere" in said and "proxy" in said
    async with httpx2.AsyncClient(base_url=named["PERDURE_URL"]) as client:
        signed = {"authorization": f"Bearer {key}"}
        assert (await client.get("/api/sessions", headers=signed)).status_code == 200
    process.terminate()
    await process.communicate()
    async with running(inn, "--host", host) as server:
        assert server.said["url"].startswith(f"http://{here}:")
        assert "TLS" in " ".join(server.said["notes"])


async def test_metrics_that_are_off_are_not_told(inn: Path) -> None:
    async with running(inn) as server:
        assert server.said["metrics"] == f"{server.said['url']}/metrics"
    (inn / "perdure.toml").write_text(f'[server]\nmetrics = "off"\n{CONFIG}')
    async with running(inn) as server:
        assert server.said["metrics"] is None
    (inn / "perdure.toml").write_text('[server]\nmetrics = "on"\n')
    assert "E-CONFIG" in await refused(await launched(inn))


def test_an_address_that_others_reach() -> None:
    found = whereabouts("192.0.2.7", 8700, "buildbox")
    assert found.url == "http://192.0.2.7:8700"
    # The command sends no key in the clear to another machine, so this is not one it could take.
    assert found.native == "https://NAME" and "NAME" in " ".join(found.notes)
    assert "TLS" in " ".join(found.notes)
    loopback = whereabouts("::1", 8700, "buildbox")
    assert (loopback.url, loopback.native) == ("http://[::1]:8700", "http://[::1]:8700")
    assert loopback.notes == ()
    everywhere = whereabouts("0.0.0.0", 8700, "buildbox")
    assert everywhere.native == "http://127.0.0.1:8700" and "buildbox" in " ".join(everywhere.notes)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("antropic:claude", "Did you mean anthropic:claude?"),
        ("anthropic:", "anthropic:MODEL"),
        ("gpt-5", "Known: anthropic, "),
    ],
)
async def test_a_model_of_no_provider_is_refused_before_anything_listens(
    inn: Path, target: str, said: str
) -> None:
    async with running(inn) as server:
        port = server.said["url"].rpartition(":")[2]  # were it listened on first, that would fail
        (inn / "perdure.toml").write_text(CONFIG + f'smart = "{target}"\n"gpt-*" = "openai:*"\n')
        told = await refused(await launched(inn, "--port", port))
    assert "E-MODEL-NAME" in told and "E-PORT" not in told
    assert "[server.models] smart" in told and said in told


def test_names_of_models_are_checked_without_any_vendors_package() -> None:
    code = (
        "import sys, perdure.cli.up; from perdure.serving.names import check_models;"
        "check_models({'a': 'anthropic:x', 'b': 'openai:*', 'c': 'ollama:y:8b'});"
        "print({'openai', 'anthropic', 'perdure.models.openai'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert ran.stdout.strip() == "set()"
