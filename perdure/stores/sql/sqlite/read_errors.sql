SELECT e.data FROM sessions AS s INNER JOIN errors AS e ON e.session = s.id
WHERE s.name >= ?1 AND s.name < ?2
ORDER BY s.name, e.fingerprint
