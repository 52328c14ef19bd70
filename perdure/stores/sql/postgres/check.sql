SELECT s.session, s.seq, max(e.seq) FROM sessions AS s
LEFT JOIN events AS e ON e.session = s.session AND e.born = s.born
WHERE s.seq > s.base
GROUP BY s.session, s.seq HAVING max(e.seq) IS DISTINCT FROM s.seq
