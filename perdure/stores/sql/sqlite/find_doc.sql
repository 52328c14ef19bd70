SELECT version, data FROM docs WHERE kind = ?1 AND name = ?2
