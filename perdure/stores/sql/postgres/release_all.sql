UPDATE sessions SET owner = NULL WHERE owner = %(node)s
