SELECT kind, name, version, data FROM docs
WHERE %(all)s::boolean OR (kind, name) > (%(kind)b::bytea, %(name)b::bytea)
ORDER BY kind, name LIMIT %(limit)s
