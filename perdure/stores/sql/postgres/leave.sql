WITH gone AS (DELETE FROM changes WHERE node = %(node)s)
DELETE FROM nodes WHERE node = %(node)s
