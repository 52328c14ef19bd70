SELECT node, version FROM changes WHERE node <> %(node)s ORDER BY node
