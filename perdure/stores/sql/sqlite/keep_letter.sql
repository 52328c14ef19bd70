INSERT INTO inbox (session, key, digest, body) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (session, key) DO NOTHING
