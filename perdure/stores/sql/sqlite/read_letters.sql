SELECT key, digest, body FROM inbox WHERE session = ?1 ORDER BY pos
