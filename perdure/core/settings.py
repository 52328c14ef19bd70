"""How a model is asked to write: what a caller may want beside the words of the request.

Every field is optional, and what is not set is not sent: the provider's own default holds.
"""

from typing import Final, Literal

import msgspec

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS: Final[tuple[Effort, ...]] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
Verbosity = Literal["low", "medium", "high"]


class Format(msgspec.Struct, frozen=True, omit_defaults=True):
    """The form a reply must have: JSON that fits `schema` (JSON text), or any JSON where that is
    empty. `strict` asks the provider to enforce it.
    """

    name: str = ""
    schema: str = ""
    description: str = ""
    strict: bool = False


class ModelSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What steers a model. None and "" mean: as the provider does by itself.

    `effort` is how much it reasons, `summary` (auto, concise, detailed) whether it tells of it.
    `tool_choice` is auto, none, required, or a tool's name with `=` before it; the last two hold
    until the turn has made a call, or a turn could never end. `parallel_tool_calls` lets one
    reply make several calls.
    """

    effort: Effort | None = None
    summary: str = ""
    tool_choice: str = ""
    parallel_tool_calls: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    format: Format | None = None
    verbosity: Verbosity | None = None

    @property
    def tool(self) -> str:
        """The name of the tool that must be called, or ""."""
        return self.tool_choice[1:] if self.tool_choice.startswith("=") else ""

    @property
    def forced(self) -> bool:
        """Whether the next reply has to make a call."""
        return self.tool_choice == "required" or bool(self.tool)
