"""An agent as its author writes it: the pinned definition plus the code of its tools."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from perdure.core.agent import (
    AgentSpec,
    Compaction,
    EnvironmentSpec,
    Limits,
    RetryPolicy,
    Rule,
    ToolSpec,
)
from perdure.core.codec import decode, encode
from perdure.core.errors import InvalidRequest
from perdure.ports.tool import Tool, Toolset


@dataclass(frozen=True)
class Agent:
    """An agent: who it is, what it may use, and how far it may go.

    `tools` are functions made by `@tool`, any object of the `Tool` protocol, or toolsets such as
    an MCP server. `workspace=True` gives it a sandboxed directory and the tools bash, read,
    write, edit, glob and grep. `permissions` come on top of what each tool asks for itself; what
    forbids wins. `budget_usd` is a shorter way to say `limits=Limits(usd=…)`. `compaction` says
    when a conversation that grows too long for the model is shortened, and to what.

    `retry` says how failed model calls are tried again; `fallbacks` are models that take a turn
    over, in this order, when the one before cannot be had. `tool_retry` is how tools that say
    nothing of their own are tried again (None: they are not).

    Two agents with equal content have the same version. A session keeps the version it began
    with until somebody moves it.
    """

    name: str
    model: str
    instructions: str = ""
    tools: Sequence[Tool | Toolset | Callable[..., Any]] = ()
    workspace: bool = False
    permissions: Sequence[Rule] = ()
    limits: Limits = field(default_factory=Limits)
    budget_usd: float | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    environment: EnvironmentSpec | None = None
    max_output_tokens: int = 8192
    approval_expires_s: float = 7 * 24 * 3600.0
    compaction: Compaction = field(default_factory=Compaction)
    tool_retry: RetryPolicy | None = None
    fallbacks: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.name or not self.name.replace("-", "").replace("_", "").isalnum():
            raise InvalidRequest(
                "E-AGENT-NAME",
                f"{self.name!r} is no name for an agent.",
                "Use letters, digits, - and _.",
            )
        if isinstance(self.fallbacks, str):
            raise InvalidRequest(
                "E-MODEL-NAME", "fallbacks is a list of models.", f"fallbacks=[{self.fallbacks!r}]"
            )
        for name in (self.model, *self.fallbacks):
            if ":" not in name:
                raise InvalidRequest(
                    "E-MODEL-NAME",
                    f"{name!r} does not say whose model it is.",
                    "Write provider:model, for example anthropic:claude-opus-5-5.",
                )

    @property
    def where(self) -> EnvironmentSpec:
        """The environment its tools work in."""
        kind = "bubblewrap" if self.workspace else "none"
        return self.environment or EnvironmentSpec(kind=kind)

    def spec(self, tools: Sequence[ToolSpec]) -> AgentSpec:
        """Return the definition as it is pinned, with the tools as they are now."""
        names = [t.name for t in tools]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise InvalidRequest(
                "E-TOOL-TWICE", f"Agent {self.name} has two tools named {twice[0]!r}."
            )
        limits = self.limits
        if self.budget_usd is not None:
            limits = Limits(
                limits.steps, limits.tool_calls, limits.wall_s, limits.tokens, self.budget_usd
            )
        spec = AgentSpec(
            name=self.name,
            model=self.model,
            instructions=self.instructions,
            tools=tuple(tools),
            permissions=tuple(self.permissions),
            limits=limits,
            retry=self.retry,
            environment=self.where,
            max_output_tokens=self.max_output_tokens,
            approval_expires_s=self.approval_expires_s,
            compaction=self.compaction,
            tool_retry=self.tool_retry,
            fallbacks=tuple(self.fallbacks),
        )
        # As it will be read back: 60 seconds are 60.0, and no other definition.
        return decode(encode(spec), AgentSpec)
