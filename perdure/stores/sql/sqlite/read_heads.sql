-- Sessions whose cached end is not where their events end.
SELECT s.name, s.seq, coalesce(e.seq, s.base)
FROM sessions AS s
LEFT JOIN events AS e
    ON e.session = s.id AND e.seq = (SELECT max(seq) FROM events WHERE session = s.id)
WHERE s.seq <> coalesce(e.seq, s.base) OR (e.seq IS NOT NULL AND s.hash <> e.hash)
LIMIT 100
