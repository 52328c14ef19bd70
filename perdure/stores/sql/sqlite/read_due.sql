SELECT name FROM sessions
WHERE wake_us > 0 AND wake_us <= ?1 AND +name >= ?3 AND +name < ?4
ORDER BY wake_us, name LIMIT ?2
