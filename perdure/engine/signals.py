"""Signals: what somebody outside tells a session that may be waiting for it."""

from typing import Final

import msgspec

from perdure.core.codec import encode
from perdure.core.errors import InvalidRequest
from perdure.core.inbox import Signalled

NAME_MAX: Final = 200
DATA_BYTES: Final = 256 * 1024


def signalled(name: str, data: object, by: str) -> Signalled:
    """Return the letter that tells of an event. Raises `InvalidRequest` (E-SIGNAL)."""
    if not 0 < len(name) <= NAME_MAX:
        raise InvalidRequest("E-SIGNAL", f"An event has a name of 1 to {NAME_MAX} characters.")
    text = data if isinstance(data, str) else _json(data)
    if len(text.encode(errors="surrogatepass")) > DATA_BYTES:
        raise InvalidRequest(
            "E-SIGNAL",
            f"What an event says is longer than {DATA_BYTES // 1024} KiB. Nothing was sent.",
            "Send where it can be fetched instead.",
        )
    return Signalled(name, text, by)


def _json(data: object) -> str:
    try:
        return encode(data).decode()
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise InvalidRequest(
            "E-SIGNAL", f"What an event says has no JSON form: {error}. Nothing was sent."
        ) from error
