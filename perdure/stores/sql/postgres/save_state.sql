INSERT INTO states (session, born, seq, data)
SELECT session, born, %(seq)s, %(data)b FROM sessions WHERE session = %(session)s
ON CONFLICT (session, born) DO UPDATE SET seq = excluded.seq, data = excluded.data
WHERE excluded.seq >= states.seq
