SELECT 1 FROM sessions WHERE id = ?1 AND name < char(1)
