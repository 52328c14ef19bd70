SELECT id, epoch, owner, seq, hash FROM sessions WHERE name = ?1
