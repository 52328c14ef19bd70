INSERT INTO changes (node, version) VALUES (%(node)s, %(version)s)
ON CONFLICT (node) DO UPDATE SET version = greatest(changes.version, excluded.version)
