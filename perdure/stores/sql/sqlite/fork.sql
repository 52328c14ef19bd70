-- Whoever claimed it before, when it was empty, has lost it.
UPDATE sessions
SET origin = ?2, base = ?3, seq = ?3, hash = ?4, row = NULL, updated_us = 0, wake_us = 0, running = 0,
    owner = NULL, epoch = epoch + 1
WHERE id = ?1
