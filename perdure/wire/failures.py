"""What a provider's failure means: one table from statuses, codes and words to our error codes.

It must not know which SDK carried the failure, and never sees a key it did not mask.
"""

import re
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from perdure.core.content import Usage
from perdure.core.errors import ErrorInfo, InvalidRequest, error_info
from perdure.core.secrets import Secret, scrub
from perdure.ports.model import ModelFailed

RATE: Final = "E-MODEL-RATE"
OVERLOADED: Final = "E-MODEL-OVERLOADED"
UNREACHABLE: Final = "E-MODEL-UNREACHABLE"
REFUSED: Final = "E-MODEL-REFUSED"
OVERFLOW: Final = "E-CONTEXT-OVERFLOW"
REJECT: Final = "E-MODEL-REJECT"
AUTH: Final = "E-MODEL-AUTH"
UNKNOWN: Final = "E-MODEL-UNKNOWN"
TORN: Final = "E-MODEL-TORN"
GARBLED: Final = "E-MODEL-GARBLED"
KEY_MISSING: Final = "E-KEY-MISSING"

DETAIL_BYTES: Final = 16 * 1024
MESSAGE_CHARS: Final = 500
RETRYABLE: Final = frozenset({RATE, OVERLOADED, UNREACHABLE, TORN, GARBLED})

_SAYS: Final[Mapping[str, str]] = {
    RATE: "asks us to slow down",
    OVERLOADED: "cannot serve now",
    UNREACHABLE: "cannot be reached",
    REFUSED: "refused the content",
    OVERFLOW: "says the context is longer than the model can read",
    REJECT: "rejected the request",
    AUTH: "did not accept the key",
    UNKNOWN: "does not know this model or address",
    TORN: "broke off in the middle of its reply",
    GARBLED: "sent something that cannot be read",
}
_HINTS: Final[Mapping[str, str]] = {
    OVERFLOW: "perdure compact ID, or perdure rewind ID --to SEQ; then perdure resume ID, perhaps "
    "with a model that reads more.",
    REJECT: "Read the provider's words in the detail; perdure rewind ID --to SEQ undoes an item, "
    "perdure resume ID goes on, perhaps with another model.",
    AUTH: "Check the key and what it may do; `perdure doctor` tries it.",
    UNKNOWN: "Check the model's name and the base URL; `perdure doctor` lists what answers.",
    UNREACHABLE: "Check the base URL and the network; `perdure doctor` tries it.",
}

# The providers' words for a kind of failure: OpenAI's codes and types, Anthropic's types, and
# what servers that copy them write.
_BY_WORD: Final[Mapping[str, str]] = {
    "rate_limit_exceeded": RATE,
    "rate_limit_error": RATE,
    "too_many_requests": RATE,
    "insufficient_quota": RATE,
    "billing_error": RATE,
    "billing_hard_limit_reached": RATE,
    "overloaded_error": OVERLOADED,
    "server_error": OVERLOADED,
    "api_error": OVERLOADED,
    "internal_server_error": OVERLOADED,
    "internal_error": OVERLOADED,
    "service_unavailable": OVERLOADED,
    "timeout_error": UNREACHABLE,
    "authentication_error": AUTH,
    "permission_error": AUTH,
    "invalid_api_key": AUTH,
    "not_found_error": UNKNOWN,
    "model_not_found": UNKNOWN,
    "context_length_exceeded": OVERFLOW,
    "exceed_context_size_error": OVERFLOW,
    "request_too_large": OVERFLOW,
    "string_above_max_length": OVERFLOW,
    "content_filter": REFUSED,
    "content_policy_violation": REFUSED,
    "responsibleaipolicyviolation": REFUSED,
    "invalid_prompt": REFUSED,
    "invalid_request_error": REJECT,
}
_OVERFLOW_WORDS: Final = re.compile(
    r"prompt is too long|maximum context length|context[ _]length|context window"
    r"|available context size|input is too long|too many (?:input )?tokens",
    re.IGNORECASE,
)
# Money is gone: the same status as haste, but waiting will not help.
_UNPAID: Final = frozenset({"insufficient_quota", "billing_error", "billing_hard_limit_reached"})

Scrub = Callable[[str], str]


def failed(
    code: str,
    provider: str,
    said: str = "",
    *,
    model: str = "",
    request_id: str = "",
    detail: str = "",
    retryable: bool | None = None,
    retry_after_s: float | None = None,
    mask: Scrub = scrub,
) -> ModelFailed:
    """Make the failure of one call. `mask` hides the key in everything the provider wrote."""
    said = mask(_readable(said).strip())[:MESSAGE_CHARS]
    message = f"{provider} {_SAYS.get(code, 'failed')}"
    message += f": {said}" if said else "."
    if request_id:
        message += f" (request {mask(_readable(request_id))[:100]})"
    info = error_info(
        code,
        "model",
        message,
        subject=f"{provider}:{model}",
        retryable=code in RETRYABLE if retryable is None else retryable,
        detail=bounded(mask(_readable(detail))),
        hint=_HINTS.get(code, ""),
        retry_after_s=retry_after_s,
    )
    return ModelFailed(info)


def usable_key(provider: str, key: Secret, variable: str) -> str:
    """Return the key to call with. `variable` is where it is looked for; empty: none is needed.

    Raises `ModelFailed` (E-KEY-MISSING, E-MODEL-AUTH) before anything is sent.
    """
    value = key.reveal()
    if not value and variable:
        info = error_info(
            KEY_MISSING,
            "model",
            f"There is no key for {provider}. Nothing was sent.",
            subject=provider,
            hint=f"export {variable}=…",
        )
        raise ModelFailed(info)
    if not (value.isascii() and value.isprintable()):
        # A client would fail on it with an exception that holds the key.
        raise failed(AUTH, provider, "it holds characters that no key has; nothing was sent")
    return value or "none"


def usable_url(provider: str, url: str) -> str:
    """Return a base URL without its last slash. Raises `InvalidRequest` (E-MODEL-URL)."""
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        right = False
    if not right:
        message = f"{scrub(_readable(url))!r} is not an address that {provider} could have."
        raise InvalidRequest("E-MODEL-URL", message, "http://127.0.0.1:8080/v1")
    return url.rstrip("/")


def from_status(
    provider: str,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    model: str = "",
    mask: Scrub = scrub,
) -> ModelFailed:
    """Read an HTTP answer that is not a success. Header names must be found in lower case."""
    text = body.decode("utf-8", "replace")
    error = _error_of(body)
    words = _words(error)
    said = _said(error) or (text if len(text) < MESSAGE_CHARS else "")
    code = _code_of(status, words, said)
    request_id = headers.get("x-request-id") or headers.get("request-id") or ""
    hopeless = words & _UNPAID or status == 402 or headers.get("x-should-retry") == "false"
    return failed(
        code,
        provider,
        f"{said} [HTTP {status}]" if said else f"[HTTP {status}]",
        model=model,
        request_id=request_id,
        detail=text,
        retryable=False if hopeless else None,
        retry_after_s=retry_after(headers) if code in RETRYABLE else None,
        mask=mask,
    )


def from_event(
    provider: str, error: object, *, model: str = "", request_id: str = ""
) -> ModelFailed:
    """Read an error that came inside a stream which had begun well."""
    raw = error if isinstance(error, Mapping) else {"message": str(error)}
    words = _words(raw)
    said = _said(raw)
    numbers = [int(w) for w in words if w.isdigit() and 400 <= int(w) <= 599]
    code = _code_of(numbers[0] if numbers else 0, words, said)
    return failed(
        code,
        provider,
        said,
        model=model,
        request_id=request_id,
        detail=_as_text(raw),
        retryable=False if words & _UNPAID else None,
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds the provider asks us to wait, in any of the three ways of saying."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name) or "") / scale
        except ValueError:
            continue
        if 0 <= seconds < 1e7:
            return seconds
    try:
        # A date is measured against the answer's own date: there is no clock here.
        until = parsedate_to_datetime(headers.get("retry-after") or "")
        asked = parsedate_to_datetime(headers.get("date") or "")
        return max(0.0, (until - asked).total_seconds())
    except (TypeError, ValueError):
        return None


def bounded(text: str) -> str:
    """Return `text` cut to what an error may keep, saying so where it was cut."""
    data = text.encode("utf-8", "replace")
    if len(data) <= DETAIL_BYTES:
        return text
    note = f"… [cut: {len(data)} bytes]"
    kept = data[: DETAIL_BYTES - len(note.encode())]
    return kept.decode("utf-8", "ignore") + note


def with_partial(failure: ModelFailed, partial: str, usage: Usage | None) -> ModelFailed:
    """Return the failure with what had arrived before it."""
    return ModelFailed(failure.info, partial or failure.partial, usage or failure.usage)


def scrubbed(info: ErrorInfo, mask: Scrub) -> ErrorInfo:
    """Return `info` with everything a stranger wrote masked."""
    return msgspec.structs.replace(info, message=mask(info.message), detail=mask(info.detail))


def _code_of(status: int, words: frozenset[str], said: str) -> str:
    """Decide by the providers' words where they are telling, else by the status."""
    named = {_BY_WORD[w] for w in words if w in _BY_WORD}
    for telling in (OVERFLOW, REFUSED):
        if telling in named:
            return telling
    if status in (0, 400, 413, 422, 500) and _OVERFLOW_WORDS.search(said):
        return OVERFLOW
    by_status = _by_status(status)
    if by_status is not None and not (by_status == REJECT and named - {REJECT}):
        return by_status
    return next(iter(sorted(named - {REJECT})), REJECT if named else OVERLOADED)


def _by_status(status: int) -> str | None:
    fixed = {401: AUTH, 402: RATE, 403: AUTH, 404: UNKNOWN, 408: UNREACHABLE, 409: OVERLOADED}
    fixed |= {413: OVERFLOW, 429: RATE}
    if status in fixed:
        return fixed[status]
    if status >= 500:
        return OVERLOADED
    return REJECT if status >= 300 else None


def _error_of(body: bytes) -> Mapping[str, Any]:
    """Find the error object in a body: nested (OpenAI, Anthropic) or flat, or nothing."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    inner = value.get("error")
    if isinstance(inner, dict):
        return inner
    return {"message": inner} if isinstance(inner, str) else value


def _words(error: Mapping[str, Any]) -> frozenset[str]:
    """Collect the machine-readable words of an error: type, code, the inner ones too."""
    found = [error.get("code"), error.get("type"), error.get("status")]
    for name in ("details", "innererror"):
        inner = error.get(name)
        if isinstance(inner, Mapping):
            found += [inner.get("error_code"), inner.get("code")]
    return frozenset(str(word).lower() for word in found if isinstance(word, str | int) and word)


def _said(error: Mapping[str, Any]) -> str:
    said = error.get("message") or error.get("detail") or ""
    return said if isinstance(said, str) else _as_text(said)


def _as_text(value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return repr(value)


def _readable(text: str) -> str:
    """Replace what cannot be written as UTF-8: an error must never break the journal or a log."""
    return text.encode("utf-8", "replace").decode("utf-8")
