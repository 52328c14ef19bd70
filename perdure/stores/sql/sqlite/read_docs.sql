SELECT name, version, data FROM docs WHERE kind = ?1 AND data IS NOT NULL ORDER BY name
