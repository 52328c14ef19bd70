DELETE FROM graves WHERE session = %(session)s AND born = %(born)s
