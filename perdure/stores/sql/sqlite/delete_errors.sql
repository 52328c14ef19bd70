DELETE FROM errors WHERE session = ?1
