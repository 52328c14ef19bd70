SELECT row_data FROM errors
WHERE
    session >= %(first)s::text COLLATE "C"
    AND (%(last)s::text IS NULL OR session < %(last)s::text COLLATE "C")
ORDER BY session, fingerprint
