-- A session and the lives in which its events lie, its own first; not alive: only forks read it.
WITH RECURSIVE past (session, born, origin, origin_born, after, until, depth, alive) AS (
    SELECT session, born, origin, origin_born, base, seq, 0, true
    FROM sessions WHERE session = %(session)s AND seq > base
    UNION ALL
    SELECT l.session, l.born, l.origin, l.origin_born, l.base, p.after, p.depth + 1, l.alive
    FROM past AS p
    CROSS JOIN LATERAL (
        SELECT s.session, s.born, s.origin, s.origin_born, s.base, true AS alive
        FROM sessions AS s WHERE s.session = p.origin AND s.born = p.origin_born
        UNION ALL
        SELECT g.session, g.born, g.origin, g.origin_born, g.base, false AS alive
        FROM graves AS g WHERE g.session = p.origin AND g.born = p.origin_born
    ) AS l
)
SELECT p.session, p.born, p.alive, p.until, s.hash, s.row_data
FROM past AS p
LEFT JOIN sessions AS s ON p.depth = 0 AND s.session = p.session
ORDER BY p.depth
