"""Whether the names of models that a server is told stand for something, before it serves."""

from collections.abc import Mapping

from perdure.core.errors import InvalidRequest
from perdure.models.registry import split


def check_models(models: Mapping[str, str]) -> None:
    """Raise `InvalidRequest` (E-MODEL-NAME) for a name behind which there is no provider.

    No provider's code is imported: whether it has that model is said by the first call.
    """
    for name, target in models.items():
        try:
            split(target)
        except InvalidRequest as error:
            said = f'[server.models] {name} = "{target}": {error.message}'
            raise InvalidRequest(error.code, said, error.hint) from error
