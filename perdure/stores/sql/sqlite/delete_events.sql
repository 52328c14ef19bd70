DELETE FROM events WHERE session = ?1 AND seq > ?2
