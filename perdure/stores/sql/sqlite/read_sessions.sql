SELECT name, seq, row FROM sessions WHERE seq > 0 ORDER BY updated_us DESC, name
