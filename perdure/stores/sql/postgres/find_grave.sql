SELECT origin, origin_born, base FROM graves
WHERE session = %(session)s AND born = %(born)s FOR UPDATE
