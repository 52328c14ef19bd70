UPDATE sessions SET owner = NULL WHERE name = ?1 AND owner = ?2 AND epoch = ?3
