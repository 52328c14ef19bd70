"""Projects that are not kept apart, each in one method: its names go through as they are."""

from collections.abc import Mapping
from typing import Any, Final

from perdure.stores.projects import ProjectStore

NAMED: Final = (
    "claim",
    "release",
    "holds",
    "append",
    "fork",
    "delete_session",
    "read",
    "post",
    "inbox",
    "mailboxes",
    "due",
    "ends",
    "abandoned",
    "sessions",
    "session",
    "errors",
    "save_state",
    "load_state",
    "put_doc",
    "docs",
    "doc",
    "delete_doc",
)


def _forgetful(method: str) -> type[ProjectStore]:
    """Return a project's store that forgets in `method` which project it is."""

    def straight(self: ProjectStore, *given: Any, **named: Any) -> Any:
        return getattr(self._base, method)(*given, **named)

    return type(f"ForgetsIn_{method}", (ProjectStore,), {method: straight})


BROKEN: Final[Mapping[str, type[ProjectStore]]] = {name: _forgetful(name) for name in NAMED}
