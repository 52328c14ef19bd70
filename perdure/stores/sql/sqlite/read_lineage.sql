-- A session and where its events lie, its own first. What was deleted has a name that begins with NUL.
WITH RECURSIVE past (session, origin, after, until, depth) AS (
    SELECT id, origin, base, seq, 0 FROM sessions WHERE name = ?1
    UNION ALL
    SELECT s.id, s.origin, s.base, p.after, p.depth + 1
    FROM past AS p INNER JOIN sessions AS s ON s.id = p.origin
)
SELECT s.id, s.name, s.seq, s.base, s.hash, s.row, p.until
FROM past AS p CROSS JOIN sessions AS s ON s.id = p.session
ORDER BY p.depth
