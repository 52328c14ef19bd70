SELECT id, epoch, owner, seq, hash, base FROM sessions WHERE name = ?1
