SELECT key, body FROM inbox
WHERE session = (SELECT id FROM sessions WHERE name = ?1) AND body IS NOT NULL
ORDER BY pos
