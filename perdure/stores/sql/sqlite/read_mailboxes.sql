-- Unary plus: by the index of waiting letters, which are few, not by that of names.
SELECT name FROM sessions
WHERE id IN (SELECT session FROM inbox WHERE body IS NOT NULL) AND +name >= ?1 AND +name < ?2
ORDER BY id
