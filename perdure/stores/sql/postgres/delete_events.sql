DELETE FROM events WHERE session = %(session)s AND born = %(born)s AND seq > %(kept)s
