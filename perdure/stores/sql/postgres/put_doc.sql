UPDATE docs SET version = %(version)s, data = %(data)b WHERE kind = %(kind)b AND name = %(name)b
