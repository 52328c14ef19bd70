"""The vendors' own tests that our server is held against, and where it differs on purpose.

The sources lie where `.ci/setup` put them. A test that is not expected to fail must pass, and one
that is expected to must fail: the lists say no more than what is so.
"""

import hashlib
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
SHARE: Final = ROOT / ".venv" / "share" / "vendor-suites"

BOTH: Final = "it sends previous_response_id and conversation, which exclude each other"

OPERATORS: Final = "it deletes a model it has no part in: models are what the operator lists"


class Suite(NamedTuple):
    """Some tests of one package. `differs` are parts of test names, with the reason why each fails;
    `least` is how many pass on a server that holds nothing they ask for.
    """

    name: str
    package: str
    paths: tuple[str, ...]
    differs: Mapping[str, str]
    least: int = 0


CRON: Final = "x is no cron expression, and no time zone"
NO_TIME: Final = "its expires_at is no RFC 3339 timestamp, which the types ask for"
PERIODIC: Final = (
    "it gives a periodic automation run_at, and its target both agent and agent_id, of which the "
    "types want exactly one; x is no cron expression"
)
NO_ARCHIVE: Final = (
    "its plugin's data is no base64, its skill's version neither a number nor latest: "
    "the types ask for both; and this server has neither a desktop nor uploaded skills"
)

OPENAI: Final = "openai-3.54.0"
PREFIX: Final = "/openai/v1"

SUITES: Final = (
    Suite(
        "responses",
        OPENAI,
        ("tests/api_resources/test_responses.py", "tests/api_resources/responses"),
        {
            "Responses::test_method_create_with_all_params": BOTH,
            "InputTokens::test_method_count_with_all_params": BOTH,
        },
        least=68,
    ),
    Suite(
        "conversations",
        OPENAI,
        ("tests/api_resources/test_conversations.py", "tests/api_resources/conversations"),
        {},
        least=44,
    ),
    Suite("chat", OPENAI, ("tests/api_resources/chat",), {}, least=64),
    Suite("files", OPENAI, ("tests/api_resources/test_files.py",), {}, least=60),
    Suite(
        "models",
        OPENAI,
        ("tests/api_resources/test_models.py",),
        {
            "Models::test_method_delete": OPERATORS,
            "Models::test_raw_response_delete": OPERATORS,
            "Models::test_streaming_response_delete": OPERATORS,
        },
        least=32,
    ),
    Suite(
        "agents",
        OPENAI,
        ("tests/api_resources/beta/test_agents.py",),
        {},
        least=44,
    ),
    Suite(
        "sessions",
        OPENAI,
        (
            "tests/api_resources/beta/agents/test_sessions.py",
            "tests/api_resources/beta/agents/sessions",
        ),
        {},
        least=132,
    ),
    Suite(
        "environments",
        OPENAI,
        (
            "tests/api_resources/beta/agents/test_environments.py",
            "tests/api_resources/beta/agents/environments",
        ),
        {
            "Environments::test_method_create_with_all_params": NO_ARCHIVE,
            "Templates::test_method_create_with_all_params": NO_ARCHIVE,
            "Templates::test_method_update_with_all_params": NO_ARCHIVE,
        },
        least=84,
    ),
    Suite(
        "vaults",
        OPENAI,
        (
            "tests/api_resources/beta/agents/test_vaults.py",
            "tests/api_resources/beta/agents/vaults",
        ),
        {
            "Credentials::test_method_create_with_all_params": NO_TIME,
            "Credentials::test_method_update_with_all_params": NO_TIME,
        },
        least=64,
    ),
    Suite(
        "automations",
        OPENAI,
        (
            "tests/api_resources/beta/agents/test_automations.py",
            "tests/api_resources/beta/agents/automations",
        ),
        {
            "Automations::test_method_create_overload_1": CRON,
            "Automations::test_method_create_with_all_params_overload_1": CRON,
            "Automations::test_raw_response_create_overload_1": CRON,
            "Automations::test_streaming_response_create_overload_1": CRON,
            "Automations::test_method_update_with_all_params": PERIODIC,
        },
        least=64,
    ),
)


def archive(package: str) -> Path:
    """Return where a package's source is, if it was fetched."""
    return SHARE / f"{package}.tar.gz"


def pinned(package: str) -> str:
    """Return the digest that requirements/vendor.txt pins."""
    name, _, version = package.rpartition("-")
    for line in (ROOT / "requirements" / "vendor.txt").read_text().splitlines():
        if line.startswith(f"{name}=={version} "):
            return line.partition("sha256:")[2].strip()
    raise AssertionError(f"requirements/vendor.txt does not pin {package}")


def unpacked(package: str, into: Path) -> Path:
    """Unpack a package's source, after its digest; return its folder."""
    data = archive(package).read_bytes()
    assert hashlib.sha256(data).hexdigest() == pinned(package), "another file than was pinned"
    with tarfile.open(archive(package)) as source:
        source.extractall(into, filter="data")
    return into / package
