"""What can go wrong, in two forms: exceptions that callers catch, and facts that are journaled.

    PerdureError
    ├── InvalidRequest        the caller's input; never worth a retry
    ├── NotFound              no such session, agent or event
    ├── Conflict              somebody else was first, or the definition has changed
    │   ├── StaleAppend       the journal is longer than the writer believed
    │   ├── LeaseLost         the writer no longer owns the session
    │   └── SessionBusy       another live process owns it
    ├── Forbidden             a permission or a sandbox said no
    ├── Unavailable           a store, model, tool or sandbox cannot serve now
    │   └── StoreFull         no room on the disk: nothing was acknowledged
    ├── BudgetReached         a limit would be passed
    └── CorruptJournal        the journal contradicts itself

Every error says its code, what happened and what to do. Adapters translate foreign errors at
their edge (`raise ... from`).
"""

import hashlib

import msgspec

KINDS = ("model", "tool", "environment", "store", "budget", "runtime")


class PerdureError(Exception):
    """The root of our errors.

    `code` is stable and documented (E-…); `message` says what happened and what is safe now;
    `hint` says what to type.
    """

    exit_code = 1

    def __init__(self, code: str, message: str, hint: str = "", *, retryable: bool = False) -> None:
        super().__init__(f"{code}  {message}")
        self.code = code
        self.message = message
        self.hint = hint
        self.retryable = retryable


class InvalidRequest(PerdureError):
    """The input is wrong; the same input will be wrong again."""

    exit_code = 2


class NotFound(PerdureError):
    """There is no such thing here."""

    exit_code = 3


class Forbidden(PerdureError):
    """A permission, a credential or the sandbox refused."""

    exit_code = 5


class Unavailable(PerdureError):
    """Something outside cannot serve now. `retry_after_s` is what it asked for, if it did."""

    exit_code = 6

    def __init__(
        self, code: str, message: str, hint: str = "", *, retry_after_s: float | None = None
    ) -> None:
        super().__init__(code, message, hint, retryable=True)
        self.retry_after_s = retry_after_s


class StoreFull(Unavailable):
    """The disk has no room. What was acknowledged is safe, what was not was not written."""


class Conflict(PerdureError):
    """Somebody else was first, or a definition changed under the caller."""

    exit_code = 7


class StaleAppend(Conflict):
    """The journal does not end where the writer believed."""


class LeaseLost(Conflict):
    """The writer's epoch is over: another process owns the session now."""


class SessionBusy(Conflict):
    """Another live process owns the session; post to its inbox instead."""


class BudgetReached(PerdureError):
    """The next call could pass a limit, so it was not made."""

    exit_code = 8


class CorruptJournal(PerdureError):
    """The journal contradicts itself. The session is parked and can still be exported."""


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as a fact in the journal.

    `kind` is one of KINDS. `fingerprint` groups the same cause over all sessions. `subject` is the
    tool or model concerned, `origin` the user's file and line, where there is one. `detail` keeps
    a vendor's raw error body.
    """

    code: str
    kind: str
    message: str
    retryable: bool = False
    fingerprint: str = ""
    origin: str = ""
    detail: str = ""
    hint: str = ""
    retry_after_s: float | None = None
    subject: str = ""


def fingerprint_of(code: str, subject: str = "", origin: str = "") -> str:
    """Return what is the same for the same cause in every session."""
    print_of = hashlib.sha256("\0".join((code, subject, origin)).encode("utf-8", "replace"))
    return print_of.hexdigest()[:12]


def error_info(
    code: str,
    kind: str,
    message: str,
    *,
    subject: str = "",
    origin: str = "",
    retryable: bool = False,
    detail: str = "",
    hint: str = "",
    retry_after_s: float | None = None,
) -> ErrorInfo:
    """Make an `ErrorInfo` whose fingerprint is its code, its subject (tool or model) and origin."""
    return ErrorInfo(
        code=code,
        kind=kind,
        message=message,
        retryable=retryable,
        fingerprint=fingerprint_of(code, subject, origin),
        origin=origin,
        detail=detail,
        hint=hint,
        retry_after_s=retry_after_s,
        subject=subject,
    )
