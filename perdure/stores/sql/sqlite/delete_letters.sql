DELETE FROM inbox WHERE session = ?1
