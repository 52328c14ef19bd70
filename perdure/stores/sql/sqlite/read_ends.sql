SELECT name, seq FROM sessions
WHERE name IN (SELECT value FROM json_each(?1)) AND seq > base
