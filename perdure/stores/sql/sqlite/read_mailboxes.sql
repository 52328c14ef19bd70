SELECT name FROM sessions WHERE id IN (SELECT session FROM inbox WHERE body IS NOT NULL) ORDER BY id
