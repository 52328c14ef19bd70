-- 0xFF is in no UTF-8: behind it sorts nothing that begins with the prefix.
SELECT name, version, data FROM docs
WHERE
    kind = %(kind)b AND data IS NOT NULL AND (%(after)b = ''::bytea OR name > %(after)b)
    AND name >= %(first)b AND name < %(last)b
ORDER BY name LIMIT %(limit)s
