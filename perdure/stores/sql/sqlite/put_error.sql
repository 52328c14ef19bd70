INSERT INTO errors (session, fingerprint, data) VALUES (?1, ?2, ?3)
ON CONFLICT (session, fingerprint) DO UPDATE SET data = excluded.data
