SELECT born, epoch, owner, seq, hash, base, origin, origin_born
FROM sessions WHERE session = %(session)s
