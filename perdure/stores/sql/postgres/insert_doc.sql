INSERT INTO docs (kind, name, version) VALUES (%(kind)b, %(name)b, 0)
ON CONFLICT (kind, name) DO NOTHING
