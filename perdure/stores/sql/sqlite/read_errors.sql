SELECT e.data FROM errors AS e INNER JOIN sessions AS s ON s.id = e.session
ORDER BY s.name, e.fingerprint
