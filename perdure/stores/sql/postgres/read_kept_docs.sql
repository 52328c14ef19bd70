SELECT kind, name, version, data FROM docs
WHERE version > 0 AND (%(all)s::boolean OR (kind, name) > (%(kind)b::bytea, %(name)b::bytea))
ORDER BY kind, name LIMIT %(limit)s
