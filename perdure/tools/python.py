"""Python functions as tools: `@tool` on a plain function, sync or async.

The decorated function stays a function that its author can call and test; beside that it carries
a `ToolSpec` and runs behind the `Tool` port. Knows nothing of sessions, journals or models.
"""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, ParamSpec, TypeVar, get_args, overload

from msgspec.structs import replace

from perdure.core import conditions
from perdure.core.agent import Effect, OnError, RetryPolicy, ToolSpec
from perdure.core.errors import ErrorInfo, error_info
from perdure.ports.tool import HearsLate, OutcomeUnknown, ToolContext, ToolFailed, ToolOutput
from perdure.tools import raised, threads
from perdure.tools.output import as_output
from perdure.tools.schema import Parameters

P = ParamSpec("P")
R = TypeVar("R")

TRANSIENT: Final = (ConnectionError, TimeoutError)  # what may pass, unless a tool says otherwise
NAME: Final = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")


class NotDone(ToolFailed):
    """Raised by a `probe` that knows: the call it was asked about did not happen."""

    def __init__(self, message: str = "The call did not happen.") -> None:
        super().__init__(error_info("E-TOOL-NOT-DONE", "tool", message))


class FunctionTool(Generic[P, R]):
    """A Python function as a tool. Made by `tool`; implements the `Tool` port."""

    __name__: str

    def __init__(  # noqa: PLR0913  # each is an option by name, and most are never given
        self,
        function: Callable[P, R],
        *,
        effect: str = "once",
        ask: str | bool = "",
        deny: str | bool = "",
        name: str = "",
        description: str = "",
        timeout_s: float = 300.0,
        probe: Callable[..., Any] | None = None,
        environment: bool = False,
        cancel_grace_s: float = 5.0,
        retry: RetryPolicy | None = None,
        on_error: OnError = "model",
        retry_on: tuple[type[Exception], ...] = TRANSIENT,
    ) -> None:
        functools.update_wrapper(self, function)
        name = name or getattr(function, "__name__", "") or type(function).__name__
        self._parameters = Parameters(function, name, raised.where(function, full=True))
        self._function = function
        self._probe = probe
        self._cancel_grace_s = cancel_grace_s
        self._retry_on = retry_on
        kind = self._checked_effect(effect)
        self._check(timeout_s)
        inside = environment or kind is Effect.CONTAINED
        self._spec = ToolSpec(
            name=name,
            description=inspect.cleandoc(description) or self._parameters.description,
            input_schema=self._parameters.schema,
            effect=kind,
            ask=self._condition(ask, "ask"),
            deny=self._condition(deny, "deny"),
            environment=inside,
            mutates=inside and kind is not Effect.READ,
            timeout_s=timeout_s,
            source=raised.source_of(function),
            retry=retry,
            on_error=self._checked_on_error(on_error),
        )

    @property
    def spec(self) -> ToolSpec:
        return self._spec

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain function, as if it had not been decorated."""
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<tool {self._spec.name} from {self._spec.source}>"

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Run the function once. Cancelled, it returns its outcome if that comes in time."""
        given = self._parameters.bind(arguments, context)
        value = await self._run(self._function, given, context)
        return as_output(value)

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """Ask the function given as `probe`; an error of its own means that it cannot tell."""
        if self._probe is None:
            return None
        given = self._parameters.bind(arguments, context)
        wanted = inspect.signature(self._probe).parameters
        fitting = self._probe_arguments(wanted, given, context)
        try:
            value = await self._run(self._probe, fitting, context)
        except OutcomeUnknown:
            return None
        except ToolFailed as error:
            if isinstance(error, NotDone) or error.info.code != "E-TOOL-RAISED":
                raise
            context.progress(f"The probe failed, {error.info.origin}: {error.info.message}\n")
            return None
        return None if value is None else as_output(value)

    async def _run(
        self, function: Callable[..., Any], given: dict[str, Any], context: ToolContext
    ) -> object:
        try:
            if _is_async(function):
                return await function(**given)
            outcome = await threads.run(
                functools.partial(function, **given),
                grace_s=self._cancel_grace_s,
                late=functools.partial(self._tell_late, function, context),
            )
            if outcome.error is not None:
                raise outcome.error
            return await outcome.value if inspect.isawaitable(outcome.value) else outcome.value
        except (ToolFailed, OutcomeUnknown):
            raise
        except (Exception, SystemExit) as error:  # anything a user's function may raise
            raise ToolFailed(self._failure(error, function)) from error

    def _failure(self, error: BaseException, function: Callable[..., Any]) -> ErrorInfo:
        """Describe what the function raised. A lost connection can pass; but it says nothing of
        what happened before, so a call that may happen only once is not tried again for it.
        """
        info = raised.failure(error, self._spec.name, function)
        passes = isinstance(error, self._retry_on) and self._spec.effect is not Effect.ONCE
        return replace(info, retryable=True) if passes else info

    def _tell_late(
        self, function: Callable[..., Any], context: ToolContext, outcome: threads.Outcome
    ) -> None:
        if not isinstance(context, HearsLate):
            return
        if outcome.error is None:
            context.late(as_output(outcome.value))
            return
        error = outcome.error
        info = (
            error.info
            if isinstance(error, ToolFailed)
            else raised.failure(error, self._spec.name, function)
        )
        context.late(ToolOutput(info.message, error=info))

    def _probe_arguments(
        self, wanted: Mapping[str, inspect.Parameter], given: dict[str, Any], context: ToolContext
    ) -> dict[str, Any]:
        """Give a probe those of the call's values that it names, and the hidden ones by name."""
        hidden = {"key": context.idempotency_key, "context": context, "ctx": context}
        return {name: value for name, value in (hidden | given).items() if name in wanted}

    def _checked_effect(self, effect: str) -> Effect:
        try:
            return Effect(effect)
        except ValueError as error:
            known = ", ".join(each.value for each in Effect)
            raise self._parameters.wrong(f"effect={effect!r} is none of {known}") from error

    def _checked_on_error(self, on_error: OnError) -> OnError:
        if on_error not in get_args(OnError):
            known = ", ".join(get_args(OnError))
            raise self._parameters.wrong(f"on_error={on_error!r} is none of {known}")
        return on_error

    def _check(self, timeout_s: float) -> None:
        if not NAME.match(self._parameters.tool):
            raise self._parameters.wrong(
                "a tool's name has 1 to 64 letters, digits, _ or -; give one with name="
            )
        if not timeout_s > 0:
            raise self._parameters.wrong(f"timeout_s={timeout_s} must be more than 0")
        if self._probe is None:
            return
        known = {"key", "context", "ctx", *self._parameters.names, self._parameters.context}
        for name, parameter in inspect.signature(self._probe).parameters.items():
            if name not in known and parameter.default is parameter.empty:
                raise self._parameters.wrong(
                    f"its probe wants `{name}`, which is not a parameter of the tool"
                )

    def _condition(self, condition: str | bool, word: str) -> str:
        """Check a condition while its author is looking: a misspelt name would ask for ever."""
        if not condition:
            return ""
        text = "true" if condition is True else condition
        unknown = set(conditions.parse(text).names) - set(self._parameters.names)
        if unknown:
            raise self._parameters.wrong(
                f"{word}={text!r} speaks of {', '.join(sorted(unknown))}, "
                "which is not a parameter of the tool"
            )
        return text


@overload
def tool(function: Callable[P, R], /) -> FunctionTool[P, R]: ...


@overload
def tool(
    *,
    effect: str = ...,
    ask: str | bool = ...,
    deny: str | bool = ...,
    name: str = ...,
    description: str = ...,
    timeout_s: float = ...,
    probe: Callable[..., Any] | None = ...,
    environment: bool = ...,
    cancel_grace_s: float = ...,
    retry: RetryPolicy | None = ...,
    on_error: OnError = ...,
    retry_on: tuple[type[Exception], ...] = ...,
) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...


def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a tool of a function: `@tool`, or `@tool(effect="read", ask="eur > 20", ...)`.

    `effect` says what may be done after a crash in mid-call: "read", "idempotent", "contained"
    or "once" (the default, never run twice without a decision). `ask` and `deny` are conditions on
    the arguments, or True. `probe` is a function that finds out what became of a call.
    `environment=True` lets it use `context.sandbox`; a contained tool always may. `retry` says how
    a call is tried again whose error can pass: one of `retry_on`, or a `ToolFailed` that says so;
    `on_error` who hears of the error that remains: "model", "ask" or "fail". Raises
    `InvalidRequest` (E-TOOL-DEFINITION, E-CONDITION) where the function cannot be a tool.
    """
    if function is not None:
        return FunctionTool(function)
    return functools.partial(FunctionTool, **options)


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    )
