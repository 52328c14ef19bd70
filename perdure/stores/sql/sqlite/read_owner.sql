SELECT owner FROM sessions WHERE name = ?1
