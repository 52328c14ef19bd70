"""The statements of `stores/sql/sqlite`, one file each, read when a store is opened."""

from pathlib import Path
from typing import NamedTuple


class Statements(NamedTuple):
    """Each field is the file of its name."""

    schema: str
    migrate_2: str
    migrate_3: str
    migrate_4: str
    migrate_5: str
    begin: str
    commit: str
    rollback: str
    table_count: str
    find_session: str
    find_event: str
    insert_session: str
    claim: str
    fork: str
    drop_state: str
    forks_of: str
    note_epoch: str
    delete_letters: str
    delete_errors: str
    delete_events: str
    delete_states: str
    delete_row: str
    bury: str
    find_buried: str
    release: str
    release_all: str
    advance: str
    insert_event: str
    insert_events: str
    take: str
    find_letter: str
    insert_letter: str
    save_state: str
    find_error: str
    put_error: str
    find_doc: str
    put_doc: str
    delete_doc: str
    read_past: str
    read_events: str
    read_hash: str
    read_inbox: str
    read_mailboxes: str
    read_sessions: str
    read_session: str
    read_due: str
    read_ends: str
    read_unfinished: str
    read_owner: str
    read_owned: str
    read_owners: str
    read_state: str
    read_heads: str
    read_docs: str
    read_errors: str
    read_lineage: str
    read_letters: str
    read_errors_of: str
    read_kept_docs: str
    keep_letter: str
    keep_doc: str


def load() -> Statements:
    """Read them all."""
    folder = Path(__file__).parents[1] / "sql" / "sqlite"
    return Statements(*((folder / f"{name}.sql").read_text("utf-8") for name in Statements._fields))
