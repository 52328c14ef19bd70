DELETE FROM states WHERE session = %(session)s AND born = %(born)s AND seq > %(kept)s
