-- Where a session's events after ?2 lie: its own, and for a fork those of its origins up to the cut.
WITH RECURSIVE past (session, origin, after, until) AS (
    SELECT id, origin, base, 9223372036854775807 FROM sessions WHERE name = ?1
    UNION ALL
    SELECT s.id, s.origin, s.base, p.after
    FROM past AS p INNER JOIN sessions AS s ON s.id = p.origin
    WHERE p.after > ?2
)
SELECT session, after, until FROM past ORDER BY until
