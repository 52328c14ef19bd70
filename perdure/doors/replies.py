"""Replies in JSON, whatever the texts in them hold."""

import json
from typing import Any

from starlette.responses import JSONResponse


class Json(JSONResponse):
    """A reply in JSON. Models and tools write half of a surrogate pair now and then, which UTF-8
    cannot say: then all that is not ASCII is escaped.
    """

    def render(self, content: Any) -> bytes:
        """Return the body."""
        try:
            return super().render(content)
        except UnicodeEncodeError:
            return json.dumps(content, separators=(",", ":")).encode("ascii")
