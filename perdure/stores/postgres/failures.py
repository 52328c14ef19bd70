"""PostgreSQL's errors in our words. What it says may quote data, so only its code is kept."""

from typing import Final

import psycopg
from psycopg import errors

from perdure.core.errors import CorruptJournal, PerdureError, Unavailable
from perdure.stores import refusals
from perdure.stores.postgres.address import stranger

# The server is going down, coming up, or is the standby of another one by now.
_AWAY: Final = (
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.DatabaseDropped,
    errors.IdleInTransactionSessionTimeout,
    errors.ReadOnlySqlTransaction,
    errors.TooManyConnections,
)


def is_away(error: psycopg.Error, connection: "psycopg.Connection[object] | None") -> bool:
    """Whether the connection is gone, or the server can do nothing for us now."""
    if isinstance(error, _AWAY) or connection is None or connection.closed:
        return True
    return (
        isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not error.sqlstate
    )


def is_collision(error: psycopg.Error) -> bool:
    """Whether two transactions were in each other's way, so that this one may be tried again."""
    return isinstance(error, errors.DeadlockDetected | errors.SerializationFailure)


def translate(error: psycopg.Error, shown: str) -> PerdureError:
    """Return what to raise instead."""
    if isinstance(error, errors.DiskFull | errors.ConfigurationLimitExceeded):
        return refusals.full(shown)
    if isinstance(error, errors.DataCorrupted | errors.IndexCorrupted):
        return CorruptJournal(
            "E-DB-CORRUPT",
            f"{shown} is damaged ({error.sqlstate}).",
            "perdure doctor --verify names what is; restore the rest from a backup.",
        )
    if isinstance(error, errors.InsufficientPrivilege):
        return Unavailable(
            "E-STORE-READONLY",
            f"The user may not write to {shown}. Nothing was changed.",
            "GRANT it the rights on the schema, or name another user.",
        )
    if error.sqlstate:
        kind = f"{type(error).__name__} ({error.sqlstate})"
        return Unavailable("E-STORE-FAILED", f"PostgreSQL refused: {kind}.")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return away(shown)
    # The driver itself: a text that holds NUL, for one.
    return Unavailable("E-STORE-FAILED", f"PostgreSQL cannot take it: {type(error).__name__}.")


def away(shown: str) -> Unavailable:
    """The database cannot be reached."""
    return Unavailable(
        "E-STORE-AWAY",
        f"The database {shown} does not answer. What was acknowledged is safe.",
        "Work goes on by itself when it is back; perdure doctor says what it can reach.",
    )


def refused(shown: str, error: psycopg.Error) -> PerdureError:
    """It could not be opened. Which of the usual reasons it was, without quoting anything."""
    if isinstance(error, psycopg.ProgrammingError):
        options = [each.keyword.decode() for each in psycopg.pq.Conninfo.get_defaults()]
        odd = stranger(shown, [*options, "ssl"])  # which is sslmode=require in an address
        if odd is not None:
            return odd
    said = str(error).lower()
    why = "does not answer"
    hint = "Is it running, and reachable from here? Write postgresql://user@host:5432/database"
    if "password" in said or "authentication" in said:
        why, hint = "does not let us in", "Give the user's password by PGPASSWORD or ~/.pgpass."
    elif 'role "' in said:
        why, hint = "does not know the user", "createuser makes it; or name another one."
    elif "too many clients" in said or "connection slots" in said:
        why = "has no connection left"
        hint = "A node takes six of them: raise max_connections, or run fewer nodes."
    elif isinstance(error, psycopg.ProgrammingError):
        why, hint = (
            "is no address that libpq knows",
            "Look at what stands behind the question mark.",
        )
    elif "does not exist" in said:
        why, hint = "does not exist", "createdb makes it; perdure makes its tables by itself."
    return Unavailable("E-STORE-AWAY", f"The database {shown} {why}. Nothing was opened.", hint)
