SELECT seq, type, data, hash FROM events
WHERE session = ?1 AND seq > ?2 AND seq <= ?3
ORDER BY seq
LIMIT ?4
