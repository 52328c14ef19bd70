"""From the name of a model to a connection: `provider:model`.

A provider is one line in PROVIDERS and one module with `connect`. Modules are imported when a
name asks for them, so that starting up costs nothing, and no provider knows another.
"""

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Final, Protocol, cast

from perdure.core.errors import InvalidRequest
from perdure.ports.model import Model, ModelOptions

PROVIDERS: Final[Mapping[str, str]] = {
    "anthropic": "perdure.models.anthropic",
    "ollama": "perdure.models.openai",
    "openai": "perdure.models.openai",
    "openai-chat": "perdure.models.openai",
    "openai-compatible": "perdure.models.openai",
    "scripted": "perdure.models.scripted",
}


class Connect(Protocol):
    """What a provider's module offers.

    The key and the base URL come from `options` first and from `environ` second; a missing key
    is reported by the first call, not here. Raises `InvalidRequest`.
    """

    def __call__(
        self, provider: str, name: str, environ: Mapping[str, str], options: ModelOptions, /
    ) -> Model: ...


class Models:
    """The connections of one process, each made when it is first asked for and then kept.

    `options` are keyed by provider.
    """

    def __init__(
        self, environ: Mapping[str, str], options: Mapping[str, ModelOptions] | None = None
    ) -> None:
        self._environ = environ
        self._options = dict(options or {})
        self._open: dict[str, Model] = {}

    def get(self, name: str) -> tuple[Model, str]:
        """Return the connection for `provider:model`, and the provider's name of the model.

        Raises `InvalidRequest` (E-MODEL-NAME, E-MODEL-SCRIPT, E-MODEL-URL).
        """
        provider, model = split(name)
        # A scripted model is its file; any other provider serves all its models on one connection.
        key = name if provider == "scripted" else provider
        if key not in self._open:
            options = self._options.get(provider, ModelOptions())
            self._open[key] = connect(name, self._environ, options)[0]
        return self._open[key], model

    async def close(self) -> None:
        """Close all connections. One that cannot be closed does not keep the others open."""
        errors: list[Exception] = []
        while self._open:
            _, model = self._open.popitem()
            try:
                await model.close()
            except Exception as error:  # noqa: BLE001 - collected and raised below
                errors.append(error)
        if errors:
            raise ExceptionGroup("closing the models", errors)


def connect(
    name: str, environ: Mapping[str, str], options: ModelOptions | None = None
) -> tuple[Model, str]:
    """Connect to the provider of `provider:model`; return it and its name of the model.

    Raises `InvalidRequest` (E-MODEL-NAME and the provider's own).
    """
    provider, model = split(name)
    make = cast(Connect, import_module(PROVIDERS[provider]).connect)
    return make(provider, model, environ, options or ModelOptions()), model


def split(name: str) -> tuple[str, str]:
    """Return provider and model of `provider:model`; the model may hold colons itself.

    Raises `InvalidRequest` (E-MODEL-NAME).
    """
    provider, colon, model = name.partition(":")
    if provider in PROVIDERS and colon and model.strip():
        return provider, model.strip()
    if provider in PROVIDERS:
        message, hint = f"{name!r} names no model.", f"{provider}:MODEL"
    else:
        message = f"There is no model provider {provider!r}."
        close = difflib.get_close_matches(provider.lower(), PROVIDERS, n=1)
        hint = f"Did you mean {close[0]}:{model or 'MODEL'}? " if close else ""
        hint += "Known: " + ", ".join(PROVIDERS) + "."
    raise InvalidRequest("E-MODEL-NAME", message, hint)
