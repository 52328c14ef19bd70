-- The session in which an event of this one lies, and its hash. CROSS: in this order, by the index.
WITH RECURSIVE past (session, origin, after, until) AS (
    SELECT id, origin, base, 9223372036854775807 FROM sessions WHERE name = ?1
    UNION ALL
    SELECT s.id, s.origin, s.base, p.after
    FROM past AS p INNER JOIN sessions AS s ON s.id = p.origin
    WHERE p.after >= ?2
)
SELECT p.session, e.hash
FROM past AS p CROSS JOIN events AS e ON e.session = p.session AND e.seq = ?2
WHERE p.after < ?2
