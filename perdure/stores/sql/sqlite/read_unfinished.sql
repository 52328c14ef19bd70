-- What is being worked on or was written to: few, by their indexes, however many sessions rest.
SELECT name, owner, row FROM sessions
WHERE id IN (
    SELECT id FROM sessions WHERE running = 1
    UNION ALL
    SELECT session FROM inbox WHERE body IS NOT NULL
)
ORDER BY name
