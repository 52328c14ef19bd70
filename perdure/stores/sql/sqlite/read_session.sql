SELECT name, seq, row FROM sessions WHERE name = ?1 AND seq > base
