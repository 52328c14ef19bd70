-- The last event of this life that forks of it read; NULL when there is no fork.
SELECT max(f.base) FROM (
    SELECT base FROM sessions WHERE origin = %(session)s AND origin_born = %(born)s
    UNION ALL
    SELECT base FROM graves WHERE origin = %(session)s AND origin_born = %(born)s
) AS f
