-- A state of an origin, from before the cut, is a state of the fork.
WITH RECURSIVE past (session, born, origin, origin_born, after, until) AS (
    SELECT session, born, origin, origin_born, base, 9223372036854775807
    FROM sessions WHERE session = %(session)s
    UNION ALL
    SELECT l.session, l.born, l.origin, l.origin_born, l.base, p.after
    FROM past AS p
    CROSS JOIN LATERAL (
        SELECT s.session, s.born, s.origin, s.origin_born, s.base
        FROM sessions AS s WHERE s.session = p.origin AND s.born = p.origin_born
        UNION ALL
        SELECT g.session, g.born, g.origin, g.origin_born, g.base
        FROM graves AS g WHERE g.session = p.origin AND g.born = p.origin_born
    ) AS l
    WHERE p.after > 0
)
SELECT s.seq, s.data
FROM past AS p
CROSS JOIN LATERAL (
    -- There is one for each life. The limit keeps it a look by the key, however many there are.
    SELECT i.seq, i.data FROM states AS i
    WHERE i.session = p.session AND i.born = p.born AND i.seq <= p.until
    LIMIT 1
) AS s
ORDER BY s.seq DESC, p.until DESC
LIMIT 1
