-- The version stays: a number that was seen once must never mean something else.
UPDATE docs SET data = NULL WHERE kind = %(kind)b AND name = %(name)b
