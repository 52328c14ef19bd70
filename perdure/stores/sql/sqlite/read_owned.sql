SELECT name FROM sessions WHERE owner = ?1 ORDER BY name LIMIT ?2
