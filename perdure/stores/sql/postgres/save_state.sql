-- Whoever deletes the session waits for us, or we for him.
INSERT INTO states (session, born, seq, data)
SELECT session, born, %(seq)s, %(data)b FROM sessions WHERE session = %(session)s FOR KEY SHARE
ON CONFLICT (session, born) DO UPDATE SET seq = excluded.seq, data = excluded.data
WHERE excluded.seq >= states.seq
