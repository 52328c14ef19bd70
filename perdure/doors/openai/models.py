"""The routes of the Models API: what the operator lists."""

from typing import Any, Final

from starlette.responses import JSONResponse, Response

from perdure.core.errors import InvalidRequest
from perdure.doors.http import Call, Endpoint
from perdure.doors.openai.problems import Wording

Json = dict[str, Any]
_GLOB: Final = frozenset("*?[")
_SINCE: Final = 1_700_000_000  # nobody knows when a model was made; clients want a number


async def list_models(call: Call) -> Response:
    """GET /models: every name that is no pattern, and the default."""
    settings = call.services.settings
    names = [name for name in settings.models if not _GLOB & set(name)]
    if settings.default_model and settings.default_model not in names:
        names.append(settings.default_model)
    return JSONResponse({"object": "list", "data": [_model(call, name) for name in names]})


async def retrieve(call: Call) -> Response:
    """GET /models/{model}."""
    name = call.path["model"]
    try:
        return JSONResponse(_model(call, name))
    except InvalidRequest as error:
        said = f"The model '{name}' does not exist."
        raise Wording(404, said, code="model_not_found", param="model") from error


async def delete(call: Call) -> Response:
    """DELETE /models/{model}: refused, models are the operator's."""
    raise Wording(403, "Models are added and removed in the server's settings.", param="model")


def _model(call: Call, name: str) -> Json:
    owner = call.services.model(name).partition(":")[0]
    return {"id": name, "object": "model", "created": _SINCE, "owned_by": owner}


ENDPOINTS = (
    Endpoint("GET", "/models", list_models, "viewer", "models.list"),
    Endpoint("GET", "/models/{model:path}", retrieve, "viewer", "models.retrieve"),
    Endpoint("DELETE", "/models/{model:path}", delete, "admin", "models.delete"),
)
