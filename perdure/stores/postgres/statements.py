"""The statements of `stores/sql/postgres`, one file each, read when a store is opened."""

from pathlib import Path
from typing import Final, NamedTuple

FOLDER: Final = Path(__file__).parents[1] / "sql" / "postgres"


class Statements(NamedTuple):
    """Each field is the file of its name."""

    abandoned: str
    append: str
    beat: str
    bury: str
    changes: str
    check: str
    claim: str
    delete_doc: str
    delete_blob: str
    delete_errors: str
    delete_events: str
    delete_grave: str
    delete_letters: str
    delete_session: str
    delete_states: str
    drain_node: str
    drop_state: str
    find_doc: str
    find_error: str
    find_event: str
    find_grave: str
    find_letter: str
    find_session: str
    fork: str
    forks_of: str
    get_blob: str
    insert_doc: str
    insert_letter: str
    insert_session: str
    is_alive: str
    is_still_alive: str
    keep_doc: str
    lapsed: str
    leave: str
    lock_doc: str
    lock_letters: str
    lock_session: str
    note_epoch: str
    owned: str
    owner: str
    put_blob: str
    put_doc: str
    put_error: str
    read_blobs: str
    read_docs: str
    read_due: str
    read_ends: str
    read_errors: str
    read_errors_of: str
    read_events: str
    read_inbox: str
    read_kept_docs: str
    read_letters: str
    read_lineage: str
    read_mailboxes: str
    read_nodes: str
    read_session: str
    read_sessions: str
    read_state: str
    release: str
    release_all: str
    save_state: str
    sweep: str
    tell: str
    told: str


def load() -> Statements:
    """Read them all."""
    return Statements(*((FOLDER / f"{name}.sql").read_text("utf-8") for name in Statements._fields))
