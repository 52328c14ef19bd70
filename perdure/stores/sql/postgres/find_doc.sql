SELECT version, data FROM docs WHERE kind = %(kind)b AND name = %(name)b
