UPDATE inbox SET body = NULL WHERE session = ?1 AND key = ?2
