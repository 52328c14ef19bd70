-- Version 4. A rowid table keeps events in the order they were appended, which is what a log is
-- written and read in; session names are long, so rows carry a small number instead.
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    epoch INTEGER NOT NULL DEFAULT 0,
    owner TEXT,                            -- the node that works on it; NULL when it was released
    seq INTEGER NOT NULL DEFAULT 0,        -- the end of its journal
    hash BLOB NOT NULL,
    row BLOB,                              -- as lists show it, JSON
    updated_us INTEGER NOT NULL DEFAULT 0,
    origin INTEGER,                        -- a fork: the session in which event `base` lies
    base INTEGER NOT NULL DEFAULT 0,       -- a fork's own events come after this one
    wake_us INTEGER NOT NULL DEFAULT 0     -- when something is due in it by itself; 0: never
) STRICT;

CREATE INDEX sessions_due ON sessions (wake_us, name) WHERE wake_us > 0;
CREATE INDEX sessions_forks ON sessions (origin, base) WHERE origin IS NOT NULL;

CREATE TABLE events (
    pos INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    type TEXT NOT NULL,
    data BLOB NOT NULL,                    -- JSON bytes, never a database's own idea of text
    hash BLOB NOT NULL,
    UNIQUE (session, seq)
) STRICT;

CREATE TABLE inbox (
    pos INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,
    key BLOB NOT NULL,
    digest BLOB NOT NULL,                  -- SHA-256 of the body, kept when the body is gone
    body BLOB,                             -- NULL once the letter was taken
    UNIQUE (session, key)
) STRICT;

CREATE INDEX inbox_waiting ON inbox (session, pos) WHERE body IS NOT NULL;

CREATE TABLE states (
    session INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;

CREATE TABLE docs (
    kind BLOB NOT NULL,
    name BLOB NOT NULL,
    version INTEGER NOT NULL,
    data BLOB,                             -- NULL once deleted; the version is never used again
    PRIMARY KEY (kind, name)
) STRICT;

CREATE TABLE errors (
    session INTEGER NOT NULL,
    fingerprint BLOB NOT NULL,
    data BLOB NOT NULL,                    -- the last occurrence and how many there were, JSON
    PRIMARY KEY (session, fingerprint)
) STRICT;
