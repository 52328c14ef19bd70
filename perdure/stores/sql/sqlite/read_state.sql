SELECT seq, data FROM states WHERE session = (SELECT id FROM sessions WHERE name = ?1)
