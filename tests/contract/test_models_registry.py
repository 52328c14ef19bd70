"""Names to connections: which key and which address each provider gets, and what is never told."""

import subprocess
import sys
from pathlib import Path

import pytest

from perdure.core.errors import InvalidRequest
from perdure.core.secrets import Secret
from perdure.models.openai import ollama_url
from perdure.models.registry import PROVIDERS, Models, connect, split
from perdure.ports.model import ModelFailed, ModelOptions
from perdure.testing.fake_vendors import FakeVendor
from perdure.testing.model_contract import SAID, call, request
from perdure.testing.traffic import Chat, Messages, Responses, Traffic, stream

# What is typed, the variable that holds the address, what is put behind it, the key's variable.
WAYS = (
    ("openai:m-1", "OPENAI_BASE_URL", "/v1", "OPENAI_API_KEY", Responses()),
    ("openai-chat:m-1", "OPENAI_BASE_URL", "/v1", "OPENAI_API_KEY", Chat()),
    ("anthropic:m-1", "ANTHROPIC_BASE_URL", "", "ANTHROPIC_API_KEY", Messages()),
    ("ollama:m-1", "OLLAMA_HOST", "", "OLLAMA_API_KEY", Chat()),
    ("openai-compatible:m-1", "PERDURE_BASE_URL", "/v1", "PERDURE_MODEL_KEY", Chat()),
)


@pytest.mark.parametrize(("name", "address", "suffix", "key", "traffic"), WAYS)
async def test_address_and_key_come_from_the_given_environment(
    name: str, address: str, suffix: str, key: str, traffic: Traffic
) -> None:
    async with FakeVendor(stream(traffic.reply([SAID]))) as vendor:
        model, model_name = connect(name, {address: vendor.url + suffix, key: "sk-from-environ"})
        _, reply = await call(model, request(model=model_name))
        await model.close()
    assert reply.items == (SAID,)
    seen = vendor.requests[0]
    assert seen.json["model"] == "m-1"
    sent = seen.headers.get("authorization", "") + seen.headers.get("x-api-key", "")
    assert "sk-from-environ" in sent


async def test_local_servers_need_no_key() -> None:
    async with FakeVendor(stream(Chat().reply([SAID]))) as vendor:
        model, name = connect("ollama:qwen3:8b", {"OLLAMA_HOST": vendor.url.split("//")[1]})
        await call(model, request(model=name))
        await model.close()
    assert vendor.requests[0].path == "/v1/chat/completions"
    assert vendor.requests[0].json["model"] == "qwen3:8b"


async def test_options_go_before_the_environment() -> None:
    async with FakeVendor(stream(Responses().reply([SAID]))) as vendor:
        options = ModelOptions(base_url=f"{vendor.url}/v1", api_key=Secret("sk-from-options"))
        environ = {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "OPENAI_API_KEY": "sk-other"}
        models = Models(environ, {"openai": options})
        model, name = models.get("openai:m-1")
        await call(model, request(model=name))
        assert models.get("openai:m-2")[0] is model, "one connection for all models of a provider"
        await models.close()
    assert vendor.requests[0].headers["authorization"] == "Bearer sk-from-options"


@pytest.mark.parametrize(("name", "variable"), [(w[0], w[3]) for w in WAYS[:3]])
async def test_a_missing_key_names_its_variable(name: str, variable: str) -> None:
    model, _ = connect(name, {})
    with pytest.raises(ModelFailed) as caught:
        await model.check()
    assert caught.value.code == "E-KEY-MISSING"
    assert variable in caught.value.hint


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("antropic:claude", "Did you mean anthropic:claude?"),
        ("OpenAI:gpt", "Did you mean openai:gpt?"),
        ("gpt-5", "Known: "),
        ("openai:", "openai:MODEL"),
        ("openai", "openai:MODEL"),
        ("", "Known: "),
    ],
)
def test_a_wrong_name_gets_help(name: str, part: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        connect(name, {})
    assert caught.value.code == "E-MODEL-NAME"
    assert part in caught.value.hint


def test_a_compatible_server_needs_an_address() -> None:
    with pytest.raises(InvalidRequest) as caught:
        connect("openai-compatible:m", {})
    assert caught.value.code == "E-MODEL-URL"
    assert "PERDURE_BASE_URL" in caught.value.hint


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://127.0.0.1", "http://", "http://h:x/v1"])
def test_an_address_that_is_none_is_told_at_once(url: str) -> None:
    for name, variable in (("openai-compatible:m", "PERDURE_BASE_URL"), WAYS[2][:2]):
        with pytest.raises(InvalidRequest) as caught:
            connect(name, {variable: url})
        assert caught.value.code == "E-MODEL-URL"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434/v1"),
        (":9999", "http://127.0.0.1:9999/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0:80", "http://127.0.0.1:80/v1"),
        ("https://models.test/", "https://models.test/v1"),
        ("http://127.0.0.1:1/v1", "http://127.0.0.1:1/v1"),
    ],
)
def test_ollama_s_host_is_written_in_many_ways(host: str, url: str) -> None:
    assert ollama_url(host) == url


def test_a_model_may_have_colons_in_its_name() -> None:
    assert split("ollama:qwen3:8b") == ("ollama", "qwen3:8b")


def test_scripts_are_connections_of_their_own(tmp_path: Path) -> None:
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text("", encoding="utf-8")
    models = Models({})
    first, _ = models.get(f"scripted:{tmp_path}/a.toml")
    assert models.get(f"scripted:{tmp_path}/a.toml")[0] is first
    assert models.get(f"scripted:{tmp_path}/b.toml")[0] is not first


def test_no_sdk_is_imported_before_it_is_used() -> None:
    """Start-up stays fast: connecting costs nothing, only the first call does."""
    program = (
        "import sys\n"
        "from perdure.models.registry import connect, PROVIDERS\n"
        "for provider in PROVIDERS:\n"
        "    if provider != 'scripted':\n"
        "        connect(f'{provider}:m', {'PERDURE_BASE_URL': 'http://127.0.0.1:1'})\n"
        "heavy = {'openai', 'anthropic', 'httpx2', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)


def test_every_provider_is_documented() -> None:
    page = Path(__file__).parents[2].joinpath("docs/models.md").read_text(encoding="utf-8")
    for provider in PROVIDERS:
        assert f"`{provider}:" in page
