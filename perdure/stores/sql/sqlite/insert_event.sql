INSERT INTO events (session, seq, type, data, hash) VALUES (?1, ?2, ?3, ?4, ?5)
