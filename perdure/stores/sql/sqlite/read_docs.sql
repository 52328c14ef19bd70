SELECT name, version, data FROM docs
WHERE kind = ?1 AND name >= ?2 AND name < ?3 AND (length(?4) = 0 OR name > ?4) AND data IS NOT NULL
ORDER BY name LIMIT ?5
