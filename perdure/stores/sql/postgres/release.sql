UPDATE sessions SET owner = NULL
WHERE session = %(session)s AND owner = %(node)s AND epoch = %(epoch)s
