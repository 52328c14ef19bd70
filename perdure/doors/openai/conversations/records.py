"""What is kept of a conversation beside its session's journal."""

from typing import Final

import msgspec

from perdure.core.agent import AgentSpec

KIND: Final = "openai.conversation"
# Who answers is said by each response; until the first one it is nobody.
NOBODY: Final = AgentSpec("openai-responses", "none:none")


class ConversationRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A conversation, and what its client keeps with it. Times in seconds."""

    id: str
    created_at: int
    metadata: dict[str, str] = {}
