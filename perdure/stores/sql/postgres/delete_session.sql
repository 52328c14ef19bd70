DELETE FROM sessions WHERE session = %(session)s
