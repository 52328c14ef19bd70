SELECT name, seq, row FROM sessions WHERE seq > base ORDER BY updated_us DESC, name
