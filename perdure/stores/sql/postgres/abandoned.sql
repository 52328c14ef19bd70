-- By the two indexes of what is unfinished: what is at rest costs nothing.
SELECT s.session FROM sessions AS s
WHERE
    s.session IN (
        SELECT b.session FROM sessions AS b WHERE b.busy
        UNION
        SELECT l.session FROM letters AS l WHERE l.body IS NOT NULL
    )
    AND NOT s.child
    AND NOT EXISTS (
        SELECT 1 FROM nodes AS n WHERE n.node = s.owner AND n.until > clock_timestamp()
    )
ORDER BY s.session LIMIT %(limit)s
