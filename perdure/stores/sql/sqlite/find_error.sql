SELECT data FROM errors WHERE session = ?1 AND fingerprint = ?2
