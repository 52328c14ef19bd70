-- Not the one that holds the highest epoch of deleted sessions: it is no document.
SELECT kind, name, version, data FROM docs
WHERE (kind > ?1 OR (kind = ?1 AND name > ?2) OR ?3) AND (kind <> x'00' OR name <> x'')
ORDER BY kind, name LIMIT ?4
