INSERT INTO states (session, seq, data) SELECT id, ?2, ?3 FROM sessions WHERE name = ?1
ON CONFLICT (session) DO UPDATE SET seq = excluded.seq, data = excluded.data
WHERE excluded.seq >= states.seq
