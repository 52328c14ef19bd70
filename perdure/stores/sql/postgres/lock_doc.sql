SELECT version, data IS NOT NULL FROM docs
WHERE kind = %(kind)b AND name = %(name)b FOR UPDATE
