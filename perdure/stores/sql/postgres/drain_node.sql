UPDATE nodes SET draining = true WHERE node = %(node)s RETURNING node
