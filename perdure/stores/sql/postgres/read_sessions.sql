SELECT session, seq, row_data FROM sessions
WHERE
    seq > base AND session >= %(first)s::text COLLATE "C"
    AND (%(last)s::text IS NULL OR session < %(last)s::text COLLATE "C")
ORDER BY updated_us DESC, session
