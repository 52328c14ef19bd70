DELETE FROM errors WHERE session = %(session)s
