-- A session's events: its own, and for a fork those of its origins up to the cut. One statement, so
-- that all is of one moment; each life is read by its index, no further than is asked for.
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
    WHERE p.after > %(after)s
)
SELECT e.seq, e.type, e.data, e.hash
FROM past AS p
CROSS JOIN LATERAL (
    SELECT i.seq, i.type, i.data, i.hash FROM events AS i
    WHERE
        i.session = p.session AND i.born = p.born
        AND i.seq > greatest(p.after, %(after)s) AND i.seq <= p.until
    ORDER BY i.seq LIMIT %(limit)s
) AS e
ORDER BY e.seq LIMIT %(limit)s
