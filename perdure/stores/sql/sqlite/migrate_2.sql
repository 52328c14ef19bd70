-- From version 1: sessions may begin as forks of others; documents; an index of errors.
ALTER TABLE sessions ADD COLUMN origin INTEGER;
ALTER TABLE sessions ADD COLUMN base INTEGER NOT NULL DEFAULT 0;

CREATE TABLE docs (
    kind BLOB NOT NULL,
    name BLOB NOT NULL,
    version INTEGER NOT NULL,
    data BLOB,
    PRIMARY KEY (kind, name)
) STRICT;

CREATE TABLE errors (
    session INTEGER NOT NULL,
    fingerprint BLOB NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (session, fingerprint)
) STRICT;
