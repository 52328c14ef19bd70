INSERT INTO docs (kind, name, version) VALUES (x'00', x'', ?1)
ON CONFLICT (kind, name) DO UPDATE SET version = max(version, excluded.version)
