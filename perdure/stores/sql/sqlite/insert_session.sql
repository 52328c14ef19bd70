INSERT INTO sessions (name, hash) VALUES (?1, ?2)
ON CONFLICT (name) DO NOTHING
