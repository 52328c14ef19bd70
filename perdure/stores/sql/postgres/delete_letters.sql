DELETE FROM letters WHERE session = %(session)s
