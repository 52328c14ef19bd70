-- From version 2: sessions say when they want to be woken.
ALTER TABLE sessions ADD COLUMN wake_us INTEGER NOT NULL DEFAULT 0;

CREATE INDEX sessions_due ON sessions (wake_us, name) WHERE wake_us > 0;
