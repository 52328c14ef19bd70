SELECT n.node FROM sessions AS s INNER JOIN nodes AS n ON n.node = s.owner
WHERE s.session = %(session)s AND n.until > clock_timestamp()
