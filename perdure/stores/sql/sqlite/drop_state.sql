DELETE FROM states WHERE session = ?1
