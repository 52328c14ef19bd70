"""Where the command line keeps what belongs to a project but to no journal: beside the store.

refs/   for each session, how its agent's code is found again
logs/   what each worker and its tools printed
"""

import hashlib
from pathlib import Path
from typing import Final

import msgspec

from perdure.config import Project
from perdure.core.codec import decode, encode

_IGNORE: Final = "# Made by perdure: sessions, workspaces and logs are nobody else's business.\n*\n"


class Ref(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the code of a session's agent is found, and what was said over its definition."""

    session: str
    agent: str
    directory: str
    model: str = ""
    in_place: bool = False
    unsandboxed: bool = False
    limits: tuple[str, ...] = ()


class Places:
    """The files of one project."""

    def __init__(self, project: Project) -> None:
        store = project.store_path
        self.home = (
            store.with_name(store.name + ".cli") if store else project.root / ".perdure" / "cli"
        )
        if project.remote:  # what is kept of a server is no other one's, and not this machine's
            self.home = project.root / ".perdure" / f"server-{_name(project.remote)[:12]}"

    def prepare(self) -> None:
        """Make the folders; a version control that meets them looks away."""
        made = self.home.parent
        if made.name == ".perdure" and not made.exists():
            made.mkdir(parents=True)
            (made / ".gitignore").write_text(_IGNORE, encoding="utf-8")
        for name in ("refs", "logs"):
            (self.home / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    def log(self, session: str) -> Path:
        """The file that the session's workers print to."""
        return self.home / "logs" / f"{_name(session)}.log"

    def ref(self, session: str) -> Ref | None:
        """Return how the session's agent is found, if that is known here."""
        try:
            return decode((self.home / "refs" / f"{_name(session)}.json").read_bytes(), Ref)
        except (OSError, msgspec.MsgspecError):
            return None

    def remember(self, ref: Ref) -> None:
        """Keep how a session's agent is found. Losing it costs one `--agent`, nothing else."""
        self.prepare()
        path = self.home / "refs" / f"{_name(ref.session)}.json"
        fresh = path.with_suffix(".new")
        fresh.write_bytes(encode(ref))
        fresh.replace(path)

    def forget(self, session: str) -> None:
        """Remove what is kept of a session that is gone."""
        self.log(session).unlink(missing_ok=True)
        (self.home / "refs" / f"{_name(session)}.json").unlink(missing_ok=True)


def _name(session: str) -> str:
    """A file's name for any session's id."""
    return hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()[:32]
