SELECT node, version FROM changes WHERE node <> %(node)s AND version > 0 ORDER BY node
