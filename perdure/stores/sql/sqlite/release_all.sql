UPDATE sessions SET owner = NULL WHERE owner = ?1
