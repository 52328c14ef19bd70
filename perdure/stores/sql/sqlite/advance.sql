-- The one place where the owner, its epoch and the end of the journal are compared and moved.
UPDATE sessions
SET seq = ?5, hash = coalesce(?6, hash), row = coalesce(?7, row), updated_us = coalesce(?8, updated_us),
    wake_us = coalesce(?9, wake_us), running = coalesce(?10, running)
WHERE name = ?1 AND owner = ?2 AND epoch = ?3 AND seq = ?4
RETURNING id
