DELETE FROM states WHERE session = ?1 AND seq > ?2
