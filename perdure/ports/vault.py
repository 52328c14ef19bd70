"""Where secrets rest: written once, used by the server itself, never given back to a client."""

from typing import Protocol

from perdure.core.secrets import Secret


class Vault(Protocol):
    """The secrets of one project, by name."""

    async def put(self, name: str, secret: Secret) -> None:
        """Keep a secret, encrypted and durable; one of that name is replaced."""
        ...

    async def get(self, name: str) -> Secret | None:
        """Return a secret to be used, or None. Raises `Unavailable` (E-VAULT-KEY) when it cannot be
        opened: it was sealed with another key.
        """
        ...

    async def delete(self, name: str) -> None:
        """Forget a secret. One that does not exist is no error."""
        ...
