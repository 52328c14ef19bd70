SELECT name, seq, row FROM sessions
WHERE name >= ?1 AND name < ?2 AND seq > base
ORDER BY updated_us DESC, name
