-- A state of an origin, from before the cut, is a state of the fork.
WITH RECURSIVE past (session, origin, after, until) AS (
    SELECT id, origin, base, 9223372036854775807 FROM sessions WHERE name = ?1
    UNION ALL
    SELECT s.id, s.origin, s.base, p.after
    FROM past AS p INNER JOIN sessions AS s ON s.id = p.origin
)
SELECT s.seq, s.data
FROM past AS p CROSS JOIN states AS s ON s.session = p.session AND s.seq <= p.until
ORDER BY s.seq DESC, p.until DESC
LIMIT 1
