-- From version 4: which sessions are being worked on is found without reading all rows. Inside a
-- text of a row the quotation marks are escaped, so these can only be its fields.
ALTER TABLE sessions ADD COLUMN running INTEGER NOT NULL DEFAULT 0;

UPDATE sessions SET running = 1
WHERE row IS NOT NULL AND instr(row, CAST('"status":"running"' AS BLOB)) > 0
    AND instr(row, CAST('"parent":"' AS BLOB)) = 0;

CREATE INDEX sessions_running ON sessions (name) WHERE running = 1;
