SELECT session FROM sessions
WHERE
    wake_us > 0 AND wake_us <= %(now_us)s AND session >= %(first)s::text COLLATE "C"
    AND (%(last)s::text IS NULL OR session < %(last)s::text COLLATE "C")
ORDER BY wake_us, session LIMIT %(limit)s
