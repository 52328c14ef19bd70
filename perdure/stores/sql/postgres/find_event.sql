-- The life in which an event of this session lies, and its hash.
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
    WHERE p.after >= %(seq)s
)
SELECT p.session, p.born, e.hash
FROM past AS p
INNER JOIN events AS e ON e.session = p.session AND e.born = p.born AND e.seq = %(seq)s
WHERE p.after < %(seq)s
