-- From version 3: sessions can be deleted, so that of each its forks are looked for.
CREATE INDEX sessions_forks ON sessions (origin, base) WHERE origin IS NOT NULL;
