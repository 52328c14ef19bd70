SELECT session, epoch FROM sessions WHERE owner = %(node)s ORDER BY session LIMIT %(limit)s
