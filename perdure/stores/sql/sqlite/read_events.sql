SELECT seq, type, data, hash FROM events
WHERE session = (SELECT id FROM sessions WHERE name = ?1) AND seq > ?2
ORDER BY seq
LIMIT ?3
