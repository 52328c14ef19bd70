SELECT s.owner, count(*), coalesce(sum(w.letters), 0)
FROM sessions AS s
LEFT JOIN (
    SELECT session, count(*) AS letters FROM inbox WHERE body IS NOT NULL GROUP BY session
) AS w ON w.session = s.id
WHERE s.owner IS NOT NULL
GROUP BY s.owner
