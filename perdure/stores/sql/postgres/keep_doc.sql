INSERT INTO docs (kind, name, version, data)
VALUES (%(kind)b, %(name)b, %(version)s, %(data)b)
ON CONFLICT (kind, name) DO UPDATE SET version = excluded.version, data = excluded.data
WHERE excluded.version > docs.version OR (excluded.version = docs.version AND excluded.data IS NULL)
