SELECT DISTINCT session FROM letters
WHERE
    body IS NOT NULL AND session >= %(first)s::text COLLATE "C"
    AND (%(last)s::text IS NULL OR session < %(last)s::text COLLATE "C")
ORDER BY session
