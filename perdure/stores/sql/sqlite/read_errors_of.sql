SELECT data FROM errors WHERE session = ?1 ORDER BY fingerprint
