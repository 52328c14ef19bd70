"""The bodies that contradict themselves, without the contradiction: then our server takes them.

What is left of the differing tests is told in `suites`: a model that is not theirs to delete, and
environments, whose bodies also name a desktop and an uploaded skill, which this server has not.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.vendor.suites import BOTH, CRON, NO_TIME, PERIODIC

REASONS: Final = (BOTH, CRON, NO_TIME, PERIODIC)
_RESPONSES: Final = (
    ('            conversation="string",\n', ""),
    ('previous_response_id="previous_response_id"', 'previous_response_id="resp_123"'),
)
MENDED: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "tests/api_resources/test_responses.py": _RESPONSES,
    "tests/api_resources/responses/test_input_tokens.py": _RESPONSES[:1],
    "tests/api_resources/beta/agents/vaults/test_credentials.py": (
        ('"expires_at": "expires_at"', '"expires_at": "2030-01-01T00:00:00Z"'),
    ),
    "tests/api_resources/beta/agents/test_automations.py": (
        ('expression="x"', 'expression="0 9 * * 1"'),
        ('timezone="x"', 'timezone="Europe/Berlin"'),
        ("            run_at=0,\n", ""),
        ('                "agent_id": "agent_id",\n', ""),
    ),
}


def mend(sources: Path) -> None:
    """Take the contradictions out of the vendor's tests, in a copy of them."""
    for path, pairs in MENDED.items():
        text = (sources / path).read_text()
        for wrong, right in pairs:
            assert wrong in text, f"{path} holds no {wrong!r}"
            text = text.replace(wrong, right)
        (sources / path).write_text(text)
