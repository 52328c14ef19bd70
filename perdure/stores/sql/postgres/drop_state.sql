DELETE FROM states WHERE session = %(session)s AND born = (
    SELECT s.born FROM sessions AS s WHERE s.session = %(session)s
)
